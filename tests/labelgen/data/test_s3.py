"""DATA on a real S3 server."""

from pathlib import Path
from typing import Any

import pytest

from labelgen.core.errors import UserError
from labelgen.data.staging import open_data
from tests.worlds.s3 import forget_credentials
from tests.worlds.staging import FAMILIES, PHOTOS, same_rows
from tests.worlds.synthetic import write_data

pytestmark = pytest.mark.usefixtures("fresh_connections")


@pytest.fixture(scope="module", name="original", autouse=True)
def original_fixture(s3: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DATA, which lies in s3://bucket/data too."""
    data = write_data(tmp_path_factory.mktemp("original") / "data", PHOTOS, per_shard=7)
    s3.put(str(data), "bucket/data", recursive=True)
    return data


def test_data_is_read_from_s3(original: Path, tmp_path: Path) -> None:
    copy = open_data("s3://bucket/data", str(tmp_path))
    assert copy.stage("train", FAMILIES, range(0, PHOTOS, 2)) and same_rows(copy, original)
    assert copy.labels("default").ontology.names


def test_a_shard_that_was_put_again_is_fetched_again(s3: Any, original: Path, tmp_path: Path) -> None:
    s3.copy("bucket/data", "bucket/changed", recursive=True)
    name = "features/train-00002-of-00004.tfrecord"
    open_data("s3://bucket/changed", str(tmp_path)).stage("train", FAMILIES, range(PHOTOS))
    raw = bytearray((original / name).read_bytes())
    raw[100] ^= 1
    s3.pipe_file(f"bucket/changed/{name}", bytes(raw))
    with pytest.raises(UserError, match=f"s3://bucket/changed/{name}: record 0 is damaged"):
        open_data("s3://bucket/changed", str(tmp_path)).stage("train", FAMILIES, range(PHOTOS))


@pytest.mark.parametrize("where", ["nobucket/data", "bucket/nodata"])
def test_no_such_bucket_or_folder(where: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"s3://{where}/dataset.json: not there; check the url"):
        open_data(f"s3://{where}", str(tmp_path))


def test_no_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forget_credentials(monkeypatch, tmp_path)
    with pytest.raises(UserError, match="cannot be read .NoCredentialsError.*AWS_ACCESS_KEY_ID and AWS_SECRET"):
        open_data("s3://bucket/data", str(tmp_path))


def test_no_server_at_the_endpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")  # the package has waits of its own
    with pytest.raises(UserError, match="EndpointConnectionError.*127.0.0.1:1.*AWS_ENDPOINT_URL"):
        open_data("s3://bucket/data", str(tmp_path))
