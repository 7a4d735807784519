"""Tensors in files: read lazily, one at a time, straight into their destination; written the same
way.

safetensors files are read with plain file reads into a small buffer, not through a memory map:
mapped pages would count as resident memory until the system takes them back.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import ml_dtypes
import numpy as np

from brushjax.files import whole_file
from brushjax.progress import progress_bar
from brushjax.weights.rules import WeightsError

DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
DTYPE_CODES = {dtype: code for code, dtype in DTYPES.items()}

SLAB_BYTES = 1 << 20  # stays in a core's cache between the read and the transposing copy
BLOCK = 256, 32  # rows and columns that are turned at once: a kernel's 3 x 3 values lie in each
BITS = {1: np.uint8, 2: np.uint16, 4: np.int32, 8: np.float64}  # by bytes: OpenCV knows no bfloat16
LARGEST_HEADER = 100_000_000  # bytes; the limit that the safetensors library sets itself


# --- tensors
# -------------------------------------------------------------------------------------------


class Tensor:
    """A tensor that is not read yet. `shape` and `dtype` are known; `fill` reads it."""

    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def fill(self, out: np.ndarray) -> None:
        """Reads the tensor into `out`, of this shape; it may be strided or of another dtype."""
        raise NotImplementedError

    def rows(self, start: int, stop: int) -> Tensor:
        """Returns rows [start, stop) along the first axis, unread."""
        raise NotImplementedError

    def slabs(self) -> Iterator[tuple[int, np.ndarray]]:
        """Reads the tensor in pieces: the first row of each, and its rows, valid until the next."""
        yield 0, self.array()

    def array(self, dtype: np.dtype | None = None) -> np.ndarray:
        """Reads the tensor into a new array."""
        out = np.empty(self.shape, dtype or self.dtype)
        self.fill(out)
        return out


@dataclasses.dataclass(frozen=True)
class ArrayTensor(Tensor):
    """A tensor that is in memory already."""

    values: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.values.shape

    @property
    def dtype(self) -> np.dtype:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.values.dtype

    def fill(self, out: np.ndarray) -> None:
        copy_cast(out, self.values)

    def rows(self, start: int, stop: int) -> Tensor:
        return ArrayTensor(self.values[start:stop])


@dataclasses.dataclass(frozen=True)
class FileTensor(Tensor):
    """A C-ordered tensor at a byte offset of a file."""

    path: Path
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype

    def fill(self, out: np.ndarray) -> None:
        if out.dtype == self.dtype and out.flags.c_contiguous:
            with open(self.path, "rb", buffering=0) as file:
                file.seek(self.offset)
                read_exactly(file, out)
            return
        target = out if self.shape else out[None]
        for start, slab in self.slabs():
            copy_cast(target[start : start + len(slab)], slab)

    def slabs(self) -> Iterator[tuple[int, np.ndarray]]:
        rows = self.shape[0] if self.shape else 1
        row_bytes = max(self.nbytes // max(rows, 1), 1)
        step = min(max(BLOCK[0], SLAB_BYTES // row_bytes), max(rows, 1))
        slab = np.empty((step, *self.shape[1:]), self.dtype)
        with open(self.path, "rb", buffering=0) as file:
            file.seek(self.offset)
            for start in range(0, rows, step):
                read = slab[: min(step, rows - start)]
                read_exactly(file, read)
                yield start, read

    def rows(self, start: int, stop: int) -> Tensor:
        offset = self.offset + start * (self.nbytes // self.shape[0])
        return FileTensor(self.path, offset, (stop - start, *self.shape[1:]), self.dtype)


@dataclasses.dataclass(frozen=True)
class View(Tensor):
    """Another tensor, its axes permuted, or the two of a 1x1 kernel added or dropped."""

    source: Tensor
    shape: tuple[int, ...]
    onto: Callable[
        [np.ndarray], np.ndarray
    ]  # an array of this shape -> a view of the source's shape

    @property
    def dtype(self) -> np.dtype:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.source.dtype

    def fill(self, out: np.ndarray) -> None:
        self.source.fill(self.onto(out))


def transposed(source: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Returns the tensor as `array.transpose(axes)` would, unread."""
    back = tuple(int(axis) for axis in np.argsort(axes))
    return View(source, tuple(source.shape[axis] for axis in axes), lambda out: out.transpose(back))


def as_conv1x1(matrix: Tensor) -> Tensor:
    """Returns a linear layer's weight (out, in) as a convolution's (out, in, 1, 1), unread."""
    return View(matrix, (*matrix.shape, 1, 1), lambda out: out[..., 0, 0])


def as_linear(kernel: Tensor) -> Tensor:
    """Returns a 1x1 convolution's weight (out, in, 1, 1) as a linear layer's (out, in), unread."""
    return View(kernel, kernel.shape[:2], lambda out: out[..., None, None])


def with_leading(tensor: Tensor, axes: int) -> Tensor:
    """Returns the tensor with leading axes of length 1 added, or dropped for a negative number."""
    if axes < 0:
        return View(tensor, tensor.shape[-axes:], lambda out: out[(None,) * -axes])
    return View(tensor, (1,) * axes + tensor.shape, lambda out: out[(0,) * axes])


@dataclasses.dataclass(frozen=True)
class Stacked(Tensor):
    """Several tensors, one after the other along the first axis."""

    parts: tuple[Tensor, ...]

    @property
    def shape(self) -> tuple[int, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return (sum(part.shape[0] for part in self.parts), *self.parts[0].shape[1:])

    @property
    def dtype(self) -> np.dtype:  # pyright: ignore[reportIncompatibleVariableOverride]
        return np.result_type(*(part.dtype for part in self.parts))  # holds every part's values

    def fill(self, out: np.ndarray) -> None:
        start = 0
        for part in self.parts:
            part.fill(out[start : start + part.shape[0]])
            start += part.shape[0]


@dataclasses.dataclass(frozen=True)
class Joined(Tensor):
    """Several tensors of one shape, along a new first axis."""

    parts: tuple[Tensor, ...]

    @property
    def shape(self) -> tuple[int, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return (len(self.parts), *self.parts[0].shape)

    @property
    def dtype(self) -> np.dtype:  # pyright: ignore[reportIncompatibleVariableOverride]
        return np.result_type(*(part.dtype for part in self.parts))  # holds every part's values

    def fill(self, out: np.ndarray) -> None:
        for place, part in zip(out, self.parts, strict=True):
            part.fill(place)


@dataclasses.dataclass(frozen=True)
class Part(Tensor):
    """One entry along the first axis of a tensor that is read once for all its entries."""

    whole: Whole
    index: int

    @property
    def shape(self) -> tuple[int, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.whole.tensor.shape[1:]

    @property
    def dtype(self) -> np.dtype:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.whole.tensor.dtype

    def fill(self, out: np.ndarray) -> None:
        copy_cast(out, self.whole.values[self.index])


class Whole:
    """A tensor and, once they were asked for, its values."""

    def __init__(self, tensor: Tensor):
        self.tensor = tensor

    @functools.cached_property
    def values(self) -> np.ndarray:
        return self.tensor.array()


def parts_of(tensor: Tensor) -> tuple[Tensor, ...]:
    """Returns the entries along a tensor's first axis, unread."""
    if isinstance(tensor, Joined):
        return tensor.parts
    whole = Whole(tensor)
    return tuple(Part(whole, index) for index in range(tensor.shape[0]))


def copy_cast(out: np.ndarray, values: np.ndarray) -> None:
    """Copies and casts `values` into `out`; WeightsError if a float becomes infinite by it."""
    turned = values.ndim > 1 and out.strides[0] == out.itemsize and values.flags.c_contiguous
    if turned and out.dtype == values.dtype and out.itemsize in BITS:
        copy_turned(out, values)
        return
    try:
        with np.errstate(over="raise"):
            out[...] = values
    except FloatingPointError as error:
        largest = np.nanmax(np.abs(values.astype(np.float64)))
        raise WeightsError(
            f"a value of {largest:.4g} does not fit into {out.dtype}; ask for bfloat16 or float32 "
            f"instead"
        ) from error


def copy_turned(out: np.ndarray, values: np.ndarray) -> None:
    """Copies C-ordered values to where their first axis is the innermost, block by block.

    NumPy does so value by value; a block turned in the cache is then copied in runs of its rows.
    """
    bits = BITS[out.itemsize]
    out, values = np.moveaxis(out.view(bits), 0, -1), values.view(bits)
    if values.ndim == 2:
        cv2.transpose(values, out)
        return
    height, width = BLOCK
    for top in range(0, len(values), height):
        for left in range(0, values.shape[1], width):
            block = values[top : top + height, left : left + width]
            place = out[left : left + width, ..., top : top + height]
            turned = cv2.transpose(block.reshape(len(block), -1))
            place[...] = turned.reshape(place.shape)


def read_exactly(file: Any, out: np.ndarray) -> None:
    """Reads `out.nbytes` bytes into a C-contiguous array."""
    view = out.reshape(-1).view(np.uint8).data
    while view:
        count = file.readinto(view)
        if not count:
            raise WeightsError(
                f"{file.name} ended while a tensor was read; was it changed meanwhile?"
            )
        view = view[count:]


# --- safetensors
# ---------------------------------------------------------------------------------------


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Reads a safetensors header and checks it against the file.

    Returns:
        The unread tensors by name, and the file's metadata.

    Raises:
        WeightsError: the file is something else, or cut short.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        head = file.read(8)
        length = int.from_bytes(head, "little")
        if len(head) < 8 or length > min(LARGEST_HEADER, size - 8):
            raise WeightsError(
                f"{path} is no safetensors file, or it is cut short within its header "
                f"({size} bytes). Download it again."
            )
        try:
            header = json.loads(file.read(length))
        except ValueError as error:
            raise WeightsError(
                f"{path} is no safetensors file: its header is no JSON ({error})."
            ) from error
    metadata = header.pop("__metadata__", {})
    start = 8 + length
    tensors = {name: _file_tensor(path, name, entry, start) for name, entry in header.items()}
    ends = start + max((entry["data_offsets"][1] for entry in header.values()), default=0)
    if ends != size:
        cause = "it is cut short" if size < ends else "something was appended to it"
        raise WeightsError(
            f"{path} has {size} bytes where its header describes {ends}: {cause}. Download or copy "
            f"it again."
        )
    return tensors, metadata


def _file_tensor(path: Path, name: str, entry: dict[str, Any], start: int) -> Tensor:
    code, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
    if code not in DTYPES:
        raise WeightsError(f"{path}: {name} has dtype {code}; readable are {', '.join(DTYPES)}.")
    tensor = FileTensor(path, start + begin, shape, DTYPES[code])
    if tensor.nbytes != end - begin:
        raise WeightsError(
            f"{path}: {name} {code}{list(shape)} cannot take {end - begin} bytes; damaged header."
        )
    return tensor


def write_safetensors(
    path: Path, tensors: Mapping[str, Tensor], dtype: np.dtype | None, metadata: dict[str, str]
) -> None:
    """Writes a safetensors file tensor by tensor. The file is there only once it is complete.

    Args:
        path: the file; replaced if it exists.
        tensors: by name.
        dtype: what floats are written as; None keeps each tensor's own.
        metadata: strings for the header. PyTorch users' loaders expect {"format": "pt"}.
    """
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    offset = 0
    for name in sorted(tensors):
        kept = written_dtype(tensors[name], dtype)
        end = offset + math.prod(tensors[name].shape) * kept.itemsize
        header[name] = {
            "dtype": DTYPE_CODES[kept],
            "shape": list(tensors[name].shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data start at a multiple of 8
    with whole_file(path) as unfinished, open(unfinished, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in progress_bar(sorted(tensors), "writing", unit="tensor", delay=2, leave=False):
            with naming(name):
                values = tensors[name].array(written_dtype(tensors[name], dtype))
            file.write(values.reshape(-1).view(np.uint8).data)


def written_dtype(tensor: Tensor, dtype: np.dtype | None) -> np.dtype:
    """Returns the dtype a tensor is written as: `dtype` for floats, its own otherwise."""
    is_float = tensor.dtype.kind == "f" or tensor.dtype in (
        DTYPES["BF16"],
        DTYPES["F8_E4M3"],
        DTYPES["F8_E5M2"],
    )
    return np.dtype(dtype) if dtype is not None and is_float else tensor.dtype


@contextlib.contextmanager
def naming(name: str) -> Iterator[None]:
    """Puts a tensor's name before the message of a WeightsError."""
    try:
        yield
    except WeightsError as error:
        raise WeightsError(f"{name}: {error}") from error
