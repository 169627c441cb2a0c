"""DATA on a real S3 server on loopback (moto's), in a process of its own."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from staging_world import FAMILIES, PHOTOS, same_rows
from synthetic import write_data

from labelgen.errors import UserError
from labelgen.staging import open_data

for package in ("moto", "flask_cors"):
    pytest.importorskip(package, reason=f"{package} is not installed")
s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed")


@pytest.fixture(scope="module", name="server")
def server_fixture() -> Iterator[str]:
    """The server's url."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    line = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while process.poll() is None and not _answers(port):
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module", name="original")
def original_fixture(server: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DATA, which lies in s3://bucket/data too."""
    data = write_data(tmp_path_factory.mktemp("original") / "data", PHOTOS, per_shard=7)
    there = s3fs.S3FileSystem(endpoint_url=server, key="user", secret="secret")
    there.mkdir("bucket")
    there.put(str(data), "bucket/data", recursive=True)
    return data


@pytest.fixture(name="environment", autouse=True)
def environment_fixture(server: str, original: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a user sets for an endpoint that is not Amazon's."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "user")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    s3fs.S3FileSystem.clear_instance_cache()


def test_data_is_read_from_s3(original: Path, tmp_path: Path) -> None:
    copy = open_data("s3://bucket/data", str(tmp_path))
    assert copy.stage("train", FAMILIES, range(0, PHOTOS, 2)) and same_rows(copy, original)
    assert copy.labels("default").ontology.names


def test_a_shard_that_was_put_again_is_fetched_again(original: Path, tmp_path: Path) -> None:
    there = s3fs.S3FileSystem()
    there.copy("bucket/data", "bucket/changed", recursive=True)
    name = "features/train-00002-of-00004.tfrecord"
    open_data("s3://bucket/changed", str(tmp_path)).stage("train", FAMILIES, range(PHOTOS))
    raw = bytearray((original / name).read_bytes())
    raw[100] ^= 1
    there.pipe_file(f"bucket/changed/{name}", bytes(raw))
    with pytest.raises(UserError, match=f"s3://bucket/changed/{name}: record 0 is damaged"):
        open_data("s3://bucket/changed", str(tmp_path)).stage("train", FAMILIES, range(PHOTOS))


@pytest.mark.parametrize("where", ["nobucket/data", "bucket/nodata"])
def test_no_such_bucket_or_folder(where: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"s3://{where}/dataset.json: not there; check the url"):
        open_data(f"s3://{where}", str(tmp_path))


def test_no_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_") and "KEY" in name]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UserError, match="cannot be read .NoCredentialsError.*AWS_ACCESS_KEY_ID and AWS_SECRET"):
        open_data("s3://bucket/data", str(tmp_path))


def test_no_server_at_the_endpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")  # the package has waits of its own
    with pytest.raises(UserError, match="EndpointConnectionError.*127.0.0.1:1.*AWS_ENDPOINT_URL"):
        open_data("s3://bucket/data", str(tmp_path))
