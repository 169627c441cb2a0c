"""The page and its few requests as a Starlette application: what comes in is bounded and checked here.

    GET  /                          the page, one file
    GET  /api/run                   {"lines": words of the RUN, "limits": {...}}
    POST /api/photos                a picture file as the body -> {"photo": KEY, "width", "height", "seconds"}
    GET  /api/photos/KEY/view.jpg   the picture, upright, at most serve_photos.VIEW_PX a side
    POST /api/photos/KEY/labels     {"words": [line, ...] or null, "threshold": 0..1} -> serve_photos.answer
    POST /api/photos/KEY/mask.png   the same -> class indices at the photo's own size, a palette PNG

What is refused is {"error": "what, and the fix"} with a status of 400 or more. One thread owns the Segmenter, so
requests wait for each other, AT_ONCE with what they sent in memory, WAITING before they send it; more are told when to
come again. Nothing is written to disk.
"""

import asyncio
import base64
import hashlib
import io
import json
import re
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fmbseg_jax.serving.session import Photos, UnknownPhoto, answer, lines_of, share
from labelgen.core.errors import UserError

PAGE = Path(__file__).with_name("page.html")
MAX_UPLOAD = 20_000_000  # bytes of a picture file
MAX_QUESTION = 200_000  # bytes of words
AT_ONCE = 32  # requests that send something; with MAX_UPLOAD it bounds what they can hold of memory
WAITING = 256  # more of these, not read yet
RETRY_S = 10  # what the others are told to wait
LOCAL = frozenset(["localhost", "127.0.0.1", "::1"])
"""What a browser on this machine calls it. Any other name that leads here is a foreign page's trick (DNS rebinding)."""
T = TypeVar("T")


def make_app(photos: Photos, hosts: frozenset[str]) -> Starlette:
    """The application. hosts: names that it may be asked by, in the Host header; none: any."""
    handlers = Handlers(photos)
    page = PAGE.read_text(encoding="utf-8")

    async def show(request: Request) -> Response:
        return HTMLResponse(page)

    return Starlette(
        routes=[
            Route("/", show),
            Route("/api/run", handlers.run),
            Route("/api/photos", handlers.add, methods=["POST"]),
            Route("/api/photos/{key}/view.jpg", handlers.view),
            Route("/api/photos/{key}/labels", handlers.labels, methods=["POST"]),
            Route("/api/photos/{key}/mask.png", handlers.mask, methods=["POST"]),
        ],
        middleware=[Middleware(Guard, hosts=hosts, policy=policy(page)), Middleware(Turns)],
        exception_handlers={
            UserError: _refused,
            UnknownPhoto: _forgotten,
            HTTPException: _http_error,
            ClientDisconnect: _gone,
        },
        lifespan=handlers.lifespan,
    )


class Handlers:
    """The requests, each of which asks `photos` in the one thread that owns it."""

    def __init__(self, photos: Photos) -> None:
        self._photos = photos
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="segmenter")

    @asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        """Photos that wait to be encoded when the server stops are dropped."""
        yield
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def run(self, request: Request) -> Response:
        """What the page starts with."""
        segmenter = self._photos.segmenter
        limits = {"bytes": MAX_UPLOAD, "pixels": segmenter.max_pixels}
        return JSONResponse({"lines": lines_of(segmenter.ontology), "limits": limits})

    async def add(self, request: Request) -> Response:
        """Takes in a photo."""
        data = await body(request, MAX_UPLOAD, "a picture file")
        start = time.perf_counter()
        photo = await self._ask(lambda: self._photos.add(data))
        height, width = photo.size_hw
        seconds = round(time.perf_counter() - start, 3)
        return JSONResponse({"photo": photo.key, "width": width, "height": height, "seconds": seconds}, 201)

    async def view(self, request: Request) -> Response:
        """The picture that is shown."""
        return Response(self._photos[request.path_params["key"]].view, media_type="image/jpeg")

    async def labels(self, request: Request) -> Response:
        """Classes and label map at the size of the picture that is shown."""
        key, (lines, threshold) = request.path_params["key"], await question(request)
        start = time.perf_counter()
        found = await self._ask(lambda: answer(self._photos.labels(key, lines, threshold, full=False)))
        return JSONResponse({**found, "seconds": round(time.perf_counter() - start, 3)})

    async def mask(self, request: Request) -> Response:
        """The mask at the photo's own size."""
        key, (lines, threshold) = request.path_params["key"], await question(request)

        def png() -> bytes:
            file = io.BytesIO()
            self._photos.labels(key, lines, threshold, full=True).mask().save(file, "PNG")
            return file.getvalue()

        return Response(await self._ask(png), media_type="image/png")

    async def _ask(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


class Guard:
    """Turns away what does not come from the page itself, and tells the browser to run nothing but the page."""

    def __init__(self, app: ASGIApp, hosts: frozenset[str], policy: str) -> None:
        self._app, self._hosts = app, hosts
        self._headers = {
            "content-security-policy": policy,
            "x-content-type-options": "nosniff",
            "referrer-policy": "no-referrer",
            "cross-origin-resource-policy": "same-origin",
            "cache-control": "no-store",
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers or refuses one request."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(self._headers)
            await send(message)

        refused = self._refusal(Headers(scope=scope)) if scope["type"] == "http" else ""
        app = JSONResponse({"error": refused}, 403) if refused else self._app
        await app(scope, receive, send_with_headers)

    def _refusal(self, headers: Headers) -> str:
        host, origin = headers.get("host", ""), headers.get("origin")
        if self._hosts and _hostname(host) not in self._hosts:
            return f"{host} is not this server's name; open the address that it printed"
        if origin is not None and urlsplit(origin).netloc != host:
            return f"a page of {origin} asked; only this server's own page may"
        return ""


class Turns:
    """A queue of the requests that send something; what only asks for a page or a picture does not wait."""

    def __init__(self, app: ASGIApp) -> None:
        self._app, self._turn, self._waiting = app, asyncio.Semaphore(AT_ONCE), 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request when its turn comes, or says when to come again."""
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD"):
            await self._app(scope, receive, send)
            return
        if self._turn.locked() and self._waiting >= WAITING:
            reason = f"{AT_ONCE + WAITING} requests are before this one; ask again in {RETRY_S} seconds"
            headers = {"retry-after": str(RETRY_S), "connection": "close"}
            await JSONResponse({"error": reason}, 503, headers)(scope, receive, send)
            return
        self._waiting += 1
        try:
            await self._turn.acquire()
        finally:
            self._waiting -= 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._turn.release()


def _hostname(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


async def body(request: Request, limit: int, what: str) -> bytes:
    """The body, refused with 413 as soon as it is known to be longer than `limit` bytes."""
    told = request.headers.get("content-length", "0")
    data = bytearray()
    if not told.isdecimal() or int(told) <= limit:
        async for chunk in request.stream():
            data += chunk
            if len(data) > limit:
                break
        else:
            return bytes(data)
    reason = f"more than {limit / 1e6:g} MB are too much for {what}; send less"
    raise HTTPException(413, reason, {"connection": "close"})  # what is still being sent is not read


async def question(request: Request) -> tuple[list[str] | None, float]:
    """(lines of words or None, threshold) of a JSON body. UserError where it is something else."""
    data = await body(request, MAX_QUESTION, "a list of words")
    try:
        fields: Any = json.loads(data)
    except (ValueError, RecursionError):
        raise UserError("the question is not JSON") from None
    words = fields.get("words") if isinstance(fields, dict) else 0
    if words is not None and not (isinstance(words, list) and all(isinstance(line, str) for line in words)):
        raise UserError('the question is not {"words": [line, ...] or null, "threshold": number}')
    return words, share(fields.get("threshold", 0))


def policy(page: str) -> str:
    """The content security policy under which the page's own script and style run, and no other, and nothing leaves."""

    def digests(tag: str) -> str:
        found = re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        hashes = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in found)
        return " ".join(f"'sha256-{digest}'" for digest in hashes)

    return (
        f"default-src 'none'; script-src {digests('script')}; style-src {digests('style')}; img-src 'self' data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


async def _refused(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, 400)


async def _forgotten(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": "this photo is not remembered any more; give it again"}, 404)


async def _gone(request: Request, error: Exception) -> Response:
    """Nobody reads this answer."""
    return Response(status_code=400)


async def _http_error(request: Request, error: Exception) -> Response:
    status, detail, headers = 500, "failed", None
    if isinstance(error, HTTPException):
        status, detail, headers = error.status_code, error.detail, error.headers
    return JSONResponse({"error": detail}, status, headers)
