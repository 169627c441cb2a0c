"""The programs of a training compiled for TPUs and GPUs that are not there, and what the compilers say of them."""
