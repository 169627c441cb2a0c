"""A page to play with a RUN: drop a photo, type words, see what is where.

    python -m fmbseg_jax.serve --workdir=run

The photo is encoded once; other words for it are answered in a fraction of a second. Photos stay in memory, the last
few, and nothing is written. It listens to this machine alone unless --host says otherwise; then whoever reaches the
address can use it: there is no password. Needs `pip install starlette uvicorn`. Ctrl-C stops it.
"""

if __name__ == "__main__":
    from labelgen.core import interrupt

    interrupt.silent()

import argparse
import contextlib
import socket
import sys
import time
from typing import Any

import jax
import numpy as np

from fmbseg_jax.inference.segmenter import Segmenter
from fmbseg_jax.runs.shared_gpu import how_shared
from fmbseg_jax.serving.session import Photos
from labelgen.core.command import command, parser
from labelgen.core.errors import UserError

SETTINGS: dict[str, Any] = {"loop": "asyncio", "http": "h11", "ws": "none"}
"""uvicorn's. How many are served at a time is the application's: a limit here answers all of too many with no JSON."""
STOP_SECONDS = 3  # for requests under way when it is stopped


def main(args: argparse.Namespace) -> int:
    """Loads the RUN, warms up, prints the address and serves until it is interrupted."""
    try:
        import uvicorn

        from fmbseg_jax.serving.app import LOCAL, make_app
    except ImportError as error:
        raise UserError(f"the page needs {error.name}; run: pip install starlette uvicorn") from None
    with listen(args.host, args.port) as door:
        host, port = door.getsockname()[:2]
        segmenter = Segmenter.restore(args.workdir, weights_dir=args.weights_dir)
        if line := how_shared(jax.local_devices()):
            print(line, flush=True)
        seconds, note = warm_up(segmenter)
        is_local = host in LOCAL
        app = make_app(Photos(segmenter), LOCAL if is_local else frozenset())
        config = uvicorn.Config(
            app,
            **SETTINGS,
            log_level="warning",
            timeout_graceful_shutdown=STOP_SECONDS,
        )
        print(f"{args.workdir}: {len(segmenter.names)} classes; ready after {seconds:.1f} s{note}")
        with contextlib.suppress(KeyboardInterrupt):
            print(address(host, port) + ("" if is_local else "  (whoever reaches it can use it)") + "  Ctrl-C stops")
            sys.stdout.flush()
            uvicorn.Server(config).run(sockets=[door])
    print("stopped; nothing was written")
    return 0


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens. UserError when the address cannot be had."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"--host={host} --port={port}: {reason}; name another --port, 0 for any") from None


def address(host: str, port: int) -> str:
    """What to type into a browser."""
    name = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(host, host)
    return f"http://[{name}]:{port}/" if ":" in name else f"http://{name}:{port}/"


def warm_up(segmenter: Segmenter) -> tuple[float, str]:
    """(seconds, note): the encoders are loaded and the head is compiled. A missing text tower is only noted."""
    start = time.perf_counter()
    blank = np.zeros((64, 64, 3), np.uint8)
    segmenter(blank)
    note = ""
    try:
        segmenter(blank, ["anything"])
    except UserError as error:
        note = f"; only the words of the RUN, for {error}"
    return time.perf_counter() - start, note


def arguments() -> argparse.ArgumentParser:
    """The command line of `python -m fmbseg_jax.serve`."""
    flags = parser(__doc__ or "", config=False)
    flags.add_argument("--workdir", required=True, metavar="RUN", help="folder that fmbseg_jax.train wrote")
    flags.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s, this machine)")
    flags.add_argument("--port", type=int, default=8000, help="default: %(default)s; 0: any free one")
    flags.add_argument("--weights_dir", default="", metavar="FOLDER", help="where the weights are now")
    return flags


if __name__ == "__main__":
    sys.exit(command(main, arguments()))
