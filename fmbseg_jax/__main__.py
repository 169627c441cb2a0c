"""`python -m fmbseg_jax` is `fmbseg`."""

import sys

from fmbseg_jax.cli import main

if __name__ == "__main__":
    sys.exit(main())
