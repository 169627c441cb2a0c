"""A folder served on loopback as hosts of large files do it: ranges, redirects, and what goes wrong with them."""

import hashlib
import http.server
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class FileServer(http.server.ThreadingHTTPServer):
    """Settings are attributes, to be changed between requests; `asked` has (path, Range) of each GET."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder = folder
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.ranges = True
        self.cut: list[int] = []
        """Bytes after which the connections to come break off, one number each."""
        self.answers: list[int] = []
        """Status codes with which the requests to come are refused."""
        self.asked: list[tuple[str, str]] = []


class Handler(http.server.BaseHTTPRequestHandler):
    """GET and HEAD of files; below /moved/ a redirect; below /REPO/resolve/REVISION/ what the hub's server says."""

    server: FileServer

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.server.asked.append((self.path, self.headers.get("Range", "")))
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        if self.server.answers and body:
            return self.head(self.server.answers.pop(0), {})
        if self.path.startswith("/moved/"):
            return self.head(301, {"Location": f"{self.server.url}/{self.path.removeprefix('/moved/')}"})
        hub = re.fullmatch(r"/(.+)/resolve/[^/]+/(.+)", self.path)
        path = self.server.folder / (f"{hub[1]}/{hub[2]}" if hub else self.path.lstrip("/"))
        if not path.is_file():
            return self.head(404, {"X-Error-Code": "EntryNotFound"} if hub else {})
        data = path.read_bytes()
        extra = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": "0" * 40} if hub else {}
        start = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")) if self.server.ranges else None
        if start and int(start[1]) >= len(data):
            return self.head(416, {"Content-Range": f"bytes */{len(data)}"})
        first = int(start[1]) if start else 0
        if start:
            extra["Content-Range"] = f"bytes {first}-{len(data) - 1}/{len(data)}"
        self.head(206 if start else 200, extra | {"Content-Length": str(len(data) - first)})
        if body:
            end = self.server.cut.pop(0) if self.server.cut else len(data)
            self.wfile.write(data[first : first + end])
        return None

    def head(self, status: int, fields: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": "0"} | fields).items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *args: Any) -> None:
        pass


@contextmanager
def serving(folder: Path) -> Iterator[FileServer]:
    folder.mkdir(parents=True, exist_ok=True)
    with FileServer(folder) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server
        server.shutdown()
