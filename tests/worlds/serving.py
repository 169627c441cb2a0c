"""The page's server in a thread of the tests, and plain requests to it."""

import http.client
import io
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from PIL import Image

from fmbseg_jax.serve import SETTINGS
from fmbseg_jax.serving.app import LOCAL, make_app
from fmbseg_jax.serving.session import Photos


@contextmanager
def serving(photos: Photos, hosts: frozenset[str] = LOCAL) -> Iterator[int]:
    """The port, on this machine, of the application, which ends with the `with`."""
    door = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(make_app(photos, hosts), **SETTINGS, log_level="error")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [door]})
    thread.start()
    yield int(door.getsockname()[1])
    server.should_exit = True
    thread.join()
    door.close()


def ask(
    port: int, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
) -> tuple[int, Any, http.client.HTTPMessage]:
    """(status, answer, headers); JSON comes back as what it says, pictures as bytes."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    data = json.dumps(body) if isinstance(body, (dict, list)) else body
    connection.request(method, path, data, headers or {})
    reply = connection.getresponse()
    found = reply.read()
    connection.close()
    is_json = reply.headers["content-type"] == "application/json"
    return reply.status, json.loads(found) if is_json else found, reply.headers


def file_of(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """The bytes of a picture file."""
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()
