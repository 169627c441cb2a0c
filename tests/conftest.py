"""Set before jax or torch is imported, and inherited by the commands that tests start."""

import os
import signal

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as of `make test &`: what tests start is to hear Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.setdefault("NPROC", "16")  # XLA's CPU pool: with two threads, collectives of virtual devices deadlock
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_NUM_CPU_DEVICES"] = "4"
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"  # but where a test is about it
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # tests compile much and compute little

pytest_plugins = ["tests.worlds.fixtures"]
