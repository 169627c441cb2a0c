"""Headless Chromium by its DevTools protocol, with the standard library alone: open a page, ask it, press, look.

    with Browser() as browser:
        page = browser.open("file:///some/index.html", width=390, height=844, dark=True)
        page.wait("document.images.length > 0")
        page.click("#next")
        page.screenshot(folder / "phone.png")
        assert page.errors == []

Tests that need it carry the mark `needs_browser`: they are skipped, with the reason, where there is no Chromium.
"""

import base64
import contextlib
import json
import os
import shutil
import socket
import struct
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars", "--mute-audio",
    "--no-first-run", "--disable-extensions", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--disable-default-apps", "--renderer-process-limit=1", "--remote-debugging-port=0",
)  # fmt: skip
KEYS = {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "Tab": 9, "Enter": 13, "Escape": 27}


def chromium() -> str | None:
    """The browser's program; the variable CHROMIUM names another."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


needs_browser = pytest.mark.skipif(chromium() is None, reason="no Chromium here: apt-get install chromium")


class Browser:
    """A browser of its own, with an empty profile; it ends with the `with`."""

    def __init__(self, seconds: float = 30) -> None:
        self._seconds = seconds

    def __enter__(self) -> "Browser":
        self._profile = tempfile.mkdtemp(prefix="chromium-")
        command = [str(chromium()), *FLAGS, f"--user-data-dir={self._profile}", "about:blank"]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            port, path = self._door()
            self._socket = WebSocket("127.0.0.1", port, path, self._seconds)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.wait()
        for _ in range(20):  # its children may still write for a moment
            shutil.rmtree(self._profile, ignore_errors=True)
            if not Path(self._profile).exists():
                return
            time.sleep(0.1)

    def open(self, url: str, width: int = 1200, height: int = 900, dark: bool = False, phone: bool = False) -> "Page":
        """A page in a tab of its own, loaded; width and height in CSS px; phone: a touch screen, no mouse."""
        target = self._call("Target.createTarget", {"url": "about:blank"}, "")["targetId"]
        session = self._call("Target.attachToTarget", {"targetId": target, "flatten": True}, "")["sessionId"]
        page = Page(self._socket, session)
        page.start(url, width, height, dark, phone)
        return page

    def _call(self, method: str, params: dict[str, Any], session: str) -> Any:
        return Page(self._socket, session).call(method, params)

    def _door(self) -> tuple[int, str]:
        """Port and path that the browser writes down once it listens."""
        file, end = Path(self._profile) / "DevToolsActivePort", time.monotonic() + self._seconds
        while time.monotonic() < end and self._process.poll() is None:
            lines = file.read_text().split() if file.is_file() else []
            if len(lines) == 2:
                return int(lines[0]), lines[1]
            time.sleep(0.05)
        raise RuntimeError(f"{chromium()} did not start")


class Page:
    """One tab. `errors` has what its console, scripts and loading complained of."""

    def __init__(self, door: "WebSocket", session: str) -> None:
        self._socket, self._session = door, session
        self.errors: list[str] = []

    def start(self, url: str, width: int, height: int, dark: bool, phone: bool) -> None:
        """Loads a page in a window of a size."""
        for domain in ("Page", "Runtime", "Log", "Network", "DOM"):
            self.call(f"{domain}.enable")
        self.resize(width, height, phone)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", {"features": [scheme]})
        failed = self.call("Page.navigate", {"url": url}).get("errorText")
        if failed:
            raise RuntimeError(f"{url}: {failed}")
        self.wait("document.readyState === 'complete' && location.href !== 'about:blank'")

    def resize(self, width: int, height: int, phone: bool = False) -> None:
        """Another size of the window, CSS px."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone}
        self.call("Emulation.setDeviceMetricsOverride", size)
        self.call("Emulation.setTouchEmulationEnabled", {"enabled": phone})

    def evaluate(self, script: str) -> Any:
        """The value of a JavaScript expression, awaited, as JSON. RuntimeError when it throws."""
        asked = {"expression": script, "returnByValue": True, "awaitPromise": True, "userGesture": True}
        found = self.call("Runtime.evaluate", asked)
        if "exceptionDetails" in found:
            raise RuntimeError(f"{script}: {_thrown(found['exceptionDetails'])}")
        return found["result"].get("value")

    def wait(self, condition: str, seconds: float = 20) -> None:
        """Returns when the expression holds. RuntimeError, with what went wrong on the page, when it does not."""
        end = time.monotonic() + seconds
        while not self.evaluate(f"Boolean({condition})"):
            if time.monotonic() > end:
                raise RuntimeError(f"still not: {condition}; errors: {self.errors}")
            time.sleep(0.03)

    def place(self, selector: str, x: float = 0.5, y: float = 0.5) -> tuple[float, float]:
        """Window coordinates of a spot of an element, shares of its width and height, scrolled into view."""
        name = json.dumps(selector)
        self.evaluate(f"document.querySelector({name}).scrollIntoView({{block: 'center', behavior: 'instant'}})")
        box = self.evaluate(f"document.querySelector({name}).getBoundingClientRect().toJSON()")
        return box["x"] + x * box["width"], box["y"] + y * box["height"]

    def hover(self, selector: str, x: float = 0.5, y: float = 0.5) -> None:
        """Moves the mouse there."""
        self._mouse("mouseMoved", *self.place(selector, x, y), button="none")

    def click(self, selector: str, x: float = 0.5, y: float = 0.5) -> None:
        """Presses the mouse there, with everything that a real press brings."""
        px, py = self.place(selector, x, y)
        self._mouse("mouseMoved", px, py, button="none")
        self._mouse("mousePressed", px, py, button="left")
        self._mouse("mouseReleased", px, py, button="left")

    def tap(self, selector: str, x: float = 0.5, y: float = 0.5) -> None:
        """Touches there with a finger (pages opened with phone=True)."""
        px, py = self.place(selector, x, y)
        self.call("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [{"x": px, "y": py}]})
        self.call("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})

    def press(self, key: str, count: int = 1) -> None:
        """Presses a key of KEYS on whatever has the focus."""
        for kind in ("rawKeyDown", "keyUp") * count:
            code = {"key": key, "code": key, "windowsVirtualKeyCode": KEYS[key]}
            self.call("Input.dispatchKeyEvent", {"type": kind, **code})

    def type(self, selector: str, text: str) -> None:
        """Replaces what a field says, as typing does."""
        self.evaluate(f"(e => {{ e.focus(); e.select(); }})(document.querySelector({json.dumps(selector)}))")
        self.call("Input.insertText", {"text": text})

    def choose(self, selector: str, *files: Path) -> None:
        """Files for an <input type=file>."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", {"nodeId": root, "selector": selector})["nodeId"]
        self.call("DOM.setFileInputFiles", {"files": [str(path) for path in files], "nodeId": node})

    def screenshot(self, path: Path, whole: bool = False) -> None:
        """What the window shows, or the whole page, as PNG."""
        data = self.call("Page.captureScreenshot", {"format": "png", "captureBeyondViewport": whole})["data"]
        path.write_bytes(base64.b64decode(data))

    def close(self) -> None:
        """Closes the tab."""
        self.call("Page.close")

    def call(self, method: str, params: dict[str, Any] | None = None) -> Any:
        """The result of any DevTools method. RuntimeError when it is refused."""
        number = self._socket.next()
        asked = {"id": number, "method": method, "params": params or {}}
        self._socket.send(json.dumps(asked | ({"sessionId": self._session} if self._session else {})))
        while True:
            reply = json.loads(self._socket.receive())
            if reply.get("id") == number:
                if "error" in reply:
                    raise RuntimeError(f"{method}: {reply['error']['message']}")
                return reply["result"]
            if reply.get("sessionId") == self._session:
                self._note(reply.get("method", ""), reply.get("params", {}))

    def _note(self, method: str, params: dict[str, Any]) -> None:
        if method == "Runtime.exceptionThrown":
            self.errors.append(_thrown(params["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.errors.append(" ".join(str(arg.get("value", arg.get("description"))) for arg in params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.errors.append(f"{params['entry']['text']} {params['entry'].get('url', '')}".strip())
        elif method == "Network.loadingFailed" and not params.get("canceled"):
            self.errors.append(f"not loaded: {params['errorText']}")

    def _mouse(self, kind: str, x: float, y: float, button: str) -> None:
        event = {"type": kind, "x": x, "y": y, "button": button, "clickCount": int(button != "none")}
        self.call("Input.dispatchMouseEvent", event)


def _thrown(details: dict[str, Any]) -> str:
    return str(details.get("exception", {}).get("description") or details["text"])


class WebSocket:
    """The few parts of RFC 6455 that a client of DevTools needs: text messages, pings, any length."""

    def __init__(self, host: str, port: int, path: str, seconds: float) -> None:
        self._socket = socket.create_connection((host, port), seconds)
        self._file = self._socket.makefile("rb")
        self._last = 0
        key = base64.b64encode(os.urandom(16)).decode()
        self._socket.sendall(
            f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        status = self._file.readline()
        if b" 101 " not in status:
            raise RuntimeError(f"no websocket: {status!r}")
        while self._file.readline().strip():
            pass

    def next(self) -> int:
        """A number for a message, each once."""
        self._last += 1
        return self._last

    def send(self, text: str) -> None:
        """Sends one text message."""
        self._frame(1, text.encode())

    def receive(self) -> str:
        """The next text message, its parts put together."""
        parts = []
        while True:
            first, second = self._read(2)
            size = second & 127
            if size > 125:
                size = int.from_bytes(self._read(2 if size == 126 else 8))
            data, opcode = self._read(size), first & 15
            if opcode == 9:
                self._frame(10, data)
            elif opcode == 8:
                raise RuntimeError("the browser hung up")
            elif opcode in (0, 1):
                parts.append(data)
                if first & 128:
                    return b"".join(parts).decode()

    def _frame(self, opcode: int, data: bytes) -> None:
        mask, size = os.urandom(4), len(data)
        length = bytes([128 | size]) if size < 126 else struct.pack(">BH", 254, size)
        if size > 65535:
            length = struct.pack(">BQ", 255, size)
        masked = bytes(byte ^ mask[i % 4] for i, byte in enumerate(data))
        with contextlib.suppress(BrokenPipeError):
            self._socket.sendall(bytes([128 | opcode]) + length + mask + masked)

    def _read(self, size: int) -> bytes:
        data = self._file.read(size)
        if len(data) < size:
            raise RuntimeError("the browser is gone")
        return data
