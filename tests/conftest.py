"""Set before jax or torch is imported: a CPU pool large enough for sharded steps, else one thread."""

import os

os.environ.setdefault("NPROC", "16")  # XLA's CPU pool: with two threads, collectives of virtual devices deadlock
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
