"""Trains what a config file says: python train.py CONFIG.py --workdir DIR (see --help)."""

from brushjax.cli import train

if __name__ == "__main__":
    train()
