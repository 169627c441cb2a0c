"""Ctrl-C while a command is still being imported, which takes seconds: it ends without a traceback.

The first thing that a command does, before its other imports, and only where it is what Python was started with; no
import of this or any other module changes a signal. Imports nothing that takes time.
"""

import signal


def silent() -> None:
    """From here on Ctrl-C ends the process at once; labelgen.core.command.command takes that back.

    What is ignored, as Ctrl-C is in a shell's background, stays ignored.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
