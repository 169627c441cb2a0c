"""The environment of every test process and its children: set before jax or torch is imported."""

import os

os.environ["NPROC"] = "16"  # XLA's CPU pool; with the 2 threads of a small machine sharded steps deadlock
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_NUM_CPU_DEVICES"] = "4"
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
os.environ["CUDA_VISIBLE_DEVICES"] = ""
