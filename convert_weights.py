"""Converts weights between JAX and PyTorch programs, compares and lists them."""

import sys

from brushjax.weights.command import main

if __name__ == "__main__":
    sys.exit(main())
