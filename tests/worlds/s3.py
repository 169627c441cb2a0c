"""A real S3 server on loopback (moto's), in a process of its own, and what a user sets to reach it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.worlds.processes import free_port, wait_for_port

for package in ("moto", "flask_cors"):
    pytest.importorskip(package, reason=f"{package} is not installed")
s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed")


@contextmanager
def serving() -> Iterator[str]:
    """The url of a server with one bucket, `bucket`, that ends with the `with`."""
    port = free_port(24096)
    line = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for_port(port)
        s3fs.S3FileSystem(endpoint_url=f"http://127.0.0.1:{port}", key="user", secret="secret").mkdir("bucket")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


@contextmanager
def file_system(server: str, cache: Path) -> Iterator[Any]:
    """The file system of a server, with the variables that a user sets for an endpoint that is not Amazon's."""
    keys = {"AWS_ACCESS_KEY_ID": "user", "AWS_SECRET_ACCESS_KEY": "secret"}
    keys["XDG_CACHE_HOME"] = str(cache)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**keys, "AWS_ENDPOINT_URL": server, "AWS_EC2_METADATA_DISABLED": "true"}.items():
            patch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        yield s3fs.S3FileSystem(use_listings_cache=False)
    s3fs.S3FileSystem.clear_instance_cache()


def forget_connections() -> None:
    """fsspec keeps file systems with the credentials that they were made with."""
    s3fs.S3FileSystem.clear_instance_cache()


def forget_credentials(patch: pytest.MonkeyPatch, home: object) -> None:
    """From here on there are none."""
    for name in [name for name in os.environ if name.startswith("AWS_") and "KEY" in name]:
        patch.delenv(name)
    patch.setenv("HOME", str(home))
