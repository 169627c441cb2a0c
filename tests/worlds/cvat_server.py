"""The requests that CVAT's own SDK and command line make for a task of pictures, answered on loopback.

What is real is on the other side: the client, its checks of every answer, the driver of auto-annotation. The answers
have the fields that the SDK's models require.
"""

import http.server
import io
import json
import threading
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlparse

from PIL import Image

VERSION = "2.80.0"
DATE = "2026-11-29T00:00:00Z"


class CvatServer(http.server.ThreadingHTTPServer):
    """One task, number 1. `annotations` has what was uploaded, `asked` the requests."""

    def __init__(self, pictures: Sequence[tuple[str, Path]], labels: Sequence[dict[str, Any]]) -> None:
        """pictures: the name of each frame and its file; labels: as `cvat-cli task create --labels` takes them."""
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.pictures, self.labels = pictures, numbered(labels)
        self.annotations: dict[str, Any] = {}
        self.asked: list[str] = []


def numbered(labels: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Labels with ids of the server's own, far from those of any function."""
    return [
        {
            "id": 100 + i,
            "name": label["name"],
            "color": label["color"],
            "type": label.get("type", "any"),
            "has_parent": False,
            "parent_id": None,
            "sublabels": [],
            "attributes": [{"id": 1000 + 10 * i + j, **each} for j, each in enumerate(label["attributes"])],
            "task_id": 1,
        }
        for i, label in enumerate(labels)
    ]


class Handler(http.server.BaseHTTPRequestHandler):
    """What the SDK asks."""

    server: CvatServer

    def do_GET(self) -> None:
        url = urlparse(self.path)
        self.server.asked.append(f"GET {url.path}")
        count = len(self.server.pictures)
        if url.path == "/api/server/about":
            self.answer({"name": "CVAT", "description": "", "version": VERSION, "logo_url": "", "subtitle": ""})
        elif url.path == "/api/tasks/1":
            self.answer(task(count, len(self.server.labels)))
        elif url.path == "/api/labels":
            found = self.server.labels if int(parse_qs(url.query).get("page", ["1"])[0]) == 1 else []
            self.answer({"count": len(found), "next": None, "previous": None, "results": found})
        elif url.path == "/api/tasks/1/data/meta":
            self.answer(meta(self.server.pictures))
        elif url.path == "/api/tasks/1/data/":
            self.reply(200, chunk(self.server.pictures), "application/zip")
        else:
            self.reply(404, b"{}")

    def do_PATCH(self) -> None:
        self.change()

    def do_PUT(self) -> None:
        self.change()

    def change(self) -> None:
        self.server.asked.append(f"{self.command} {self.path}")
        sent = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.annotations = sent
        self.answer({"version": 1, "tags": [], "shapes": [], "tracks": []})

    def answer(self, fields: Any) -> None:
        self.reply(200, json.dumps(fields).encode())

    def reply(self, status: int, data: bytes, kind: str = "application/vnd.cvat+json") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: Any) -> None:
        pass


def task(size: int, labels: int) -> dict[str, Any]:
    """A task as the server tells it."""
    summary = {"url": "", "count": 1, "completed": 0, "validation": 0}
    return {
        "url": "", "id": 1, "name": "photos", "project_id": None, "mode": "annotation", "owner": None, "assignee": None,
        "bug_tracker": "", "created_date": DATE, "updated_date": DATE, "overlap": 0, "segment_size": size,
        "status": "annotation", "data_chunk_size": size, "data_compressed_chunk_type": "imageset",
        "data_original_chunk_type": "imageset", "guide_id": None, "size": size, "image_quality": 70, "data": 1,
        "dimension": "2d", "subset": "", "organization": None, "organization_id": None, "target_storage": None,
        "source_storage": None, "jobs": summary, "labels": {"url": "", "count": labels}, "assignee_updated_date": None,
        "data_cloud_storage_id": None, "validation_mode": None, "consensus_enabled": False,
    }  # fmt: skip


def meta(pictures: Sequence[tuple[str, Path]]) -> dict[str, Any]:
    """The frames of a task."""
    frames = []
    for name, path in pictures:
        with Image.open(path) as image:
            frames.append({"name": name, "width": image.width, "height": image.height, "related_files": 0})
    return {
        "chunk_size": len(frames), "size": len(frames), "image_quality": 70, "start_frame": 0,
        "stop_frame": len(frames) - 1, "frame_filter": "", "frames": frames, "deleted_frames": [],
        "chunks_updated_date": DATE, "included_frames": None, "storage_method": "cache", "storage": "local",
        "cloud_storage_id": None,
    }  # fmt: skip


def chunk(pictures: Sequence[tuple[str, Path]]) -> bytes:
    """The frames as they are, in a zip."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for i, (_, path) in enumerate(pictures):
            archive.write(path, f"{i:06d}{path.suffix}")
    return data.getvalue()


@contextmanager
def serving_cvat(pictures: Sequence[tuple[str, Path]], labels: Sequence[dict[str, Any]]) -> Iterator[CvatServer]:
    with CvatServer(pictures, labels) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server
        server.shutdown()
