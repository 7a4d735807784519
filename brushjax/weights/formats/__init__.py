"""Reads a weight file by what it holds, not by its ending."""

from __future__ import annotations

from pathlib import Path

from brushjax.weights.formats.flax_files import is_flax, read_flax
from brushjax.weights.formats.gguf import MAGIC, read_gguf
from brushjax.weights.formats.pickles import read_pickle
from brushjax.weights.rules import WeightsError
from brushjax.weights.store import Tensor, read_safetensors


def read_file(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Reads a safetensors file, a PyTorch pickle, a msgpack file of Flax or a GGUF file.

    Returns:
        The unread tensors by name, and the file's metadata.

    Raises:
        WeightsError: the file is none of these, or damaged.
    """
    with open(path, "rb") as file:
        head = file.read(256)
    if head.startswith(b"version https://git-lfs"):
        raise WeightsError(
            f"{path} is a git-LFS pointer, not the weights ({path.stat().st_size} bytes). "
            f"Run `git lfs pull` in its repository, or download the file itself."
        )
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        raise WeightsError(
            f"{path} is a web page, not weights: it starts with {head[:40]!r}. The download "
            f"probably asked for a login or a licence; open the link in a browser and download the "
            f"file itself."
        )
    if head.startswith(MAGIC):
        return read_gguf(path)
    if is_pickle(head):
        return read_pickle(path), {}
    other = is_flax(head) and not _is_safetensors(head)
    return (read_flax(path), {}) if other else read_safetensors(path)


def is_pickle(head: bytes) -> bool:
    """Whether a file's first bytes are those of a PyTorch pickle, old or new."""
    return head.startswith((b"PK\x03\x04", b"\x80")) and not _is_safetensors(head)


def _is_safetensors(head: bytes) -> bool:
    return head[8:9] == b"{"  # the eight bytes before are a length and can look like anything
