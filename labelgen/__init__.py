"""Labels nobody drew: frozen CLIP, SAM and DINOv2 encode photos once, words label them as often as wanted."""

import signal
import sys

# `python -m labelgen.run` imports for seconds before it begins: Ctrl-C ends that without a traceback.
if sys.argv[:1] == ["-m"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
