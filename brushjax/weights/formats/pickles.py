"""PyTorch's pickled files (.bin, .ckpt, .pt), read without torch and without running their code.

A pickle is a small program that may name any function of any module. This reader knows the few
names that describe a tensor; for every other one it puts an empty stand-in, which takes all that is
done to it and does nothing. Training checkpoints carry such objects beside their weights.
"""

from __future__ import annotations

import dataclasses
import math
import pickle
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from brushjax.weights.rules import WeightsError
from brushjax.weights.store import DTYPES, FileTensor, Tensor, copy_cast

STORAGES = {
    "DoubleStorage": DTYPES["F64"],
    "FloatStorage": DTYPES["F32"],
    "HalfStorage": DTYPES["F16"],
    "BFloat16Storage": DTYPES["BF16"],
    "LongStorage": DTYPES["I64"],
    "IntStorage": DTYPES["I32"],
    "ShortStorage": DTYPES["I16"],
    "CharStorage": DTYPES["I8"],
    "ByteStorage": DTYPES["U8"],
    "BoolStorage": DTYPES["BOOL"],
    "UntypedStorage": DTYPES["U8"],
}
NAMED = {  # dtypes that a tensor over an untyped storage names
    "float8_e4m3fn": DTYPES["F8_E4M3"],
    "float8_e5m2": DTYPES["F8_E5M2"],
    "bfloat16": DTYPES["BF16"],
    **{name: np.dtype(name) for name in ("float16", "float32", "float64", "int64", "int32")},
}
MAGIC = 0x1950A86A20F9469CFC6C  # what torch's files of before 1.6 start with
DAMAGE = (
    *(pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, IndexError),
    *(KeyError, ImportError, OverflowError, MemoryError, RecursionError, struct.error),
    *(zipfile.BadZipFile, NotImplementedError, OSError),
)


class Foreign:
    """Stands for an object of a class that is not known here; `state` is what it was given."""

    origin = ""
    state: Any = None

    def __init__(self, *args: Any, **named: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def __call__(self, *args: Any, **named: Any) -> Foreign:
        return self

    def append(self, value: Any) -> None:
        """Takes an item, as a list of another program would."""

    def extend(self, values: Any) -> None:
        """Takes items, as a list of another program would."""

    def add(self, value: Any) -> None:
        """Takes an item, as a set of another program would."""


class Plain(dict):
    """An ordered dict, without the attributes that PyTorch hangs on one."""

    def __setstate__(self, state: Any) -> None:
        pass


@dataclasses.dataclass
class Storage:
    """Where a tensor's values are: `numel` numbers of a file, from byte `offset` on."""

    dtype: np.dtype
    numel: int
    path: Path
    offset: int = -1


@dataclasses.dataclass(frozen=True)
class Strided(Tensor):
    """A tensor whose values do not stand one after the other, for instance a transposed one."""

    source: FileTensor  # the stretch of the file that holds them, flat
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # in numbers, not bytes

    @property
    def dtype(self) -> np.dtype:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.source.dtype

    def fill(self, out: np.ndarray) -> None:
        steps = tuple(stride * self.dtype.itemsize for stride in self.strides)
        values = self.source.array()
        copy_cast(out, np.lib.stride_tricks.as_strided(values, self.shape, steps, writeable=False))

    def rows(self, start: int, stop: int) -> Tensor:
        first = self.source.rows(start * self.strides[0], self.source.shape[0])
        assert isinstance(first, FileTensor)
        return Strided(first, (stop - start, *self.shape[1:]), self.strides)


def read_pickle(path: Path) -> dict[str, Tensor]:
    """Returns the unread tensors of a state dict, or of the one in a training checkpoint.

    Raises:
        WeightsError: the file is damaged, or its weights need a class of another program.
    """
    content = read_content(path)
    weights = content.get("state_dict", content) if isinstance(content, Mapping) else content
    if isinstance(weights, Foreign):
        raise _refused(path, weights)
    if not isinstance(weights, Mapping):
        raise WeightsError(
            f"{path} holds a {type(weights).__name__}: expected tensors by name. Pass a file of "
            "weights."
        )
    for value in weights.values():
        if isinstance(value, Foreign):
            raise _refused(path, value)
    return {str(name): value for name, value in weights.items() if isinstance(value, Tensor)}


def _refused(path: Path, value: Foreign) -> WeightsError:
    return WeightsError(
        f"{path} was refused: its weights need {value.origin}, which is no tensor, and to make one "
        "would run code from the file. Get a .safetensors file of the same weights from someone "
        "you trust."
    )


def read_content(path: Path) -> Any:
    """Returns what a file holds: dicts, lists and plain values, with unread tensors in them.

    Raises:
        WeightsError: the file is damaged.
    """
    try:
        if zipfile.is_zipfile(path):
            return _read_zipped(path)
        with open(path, "rb") as file:
            return _read_old(path, file)
    except WeightsError:
        raise
    except DAMAGE as error:
        raise WeightsError(
            f"{path} is no file of PyTorch's, or it is damaged ({type(error).__name__}: "
            f"{str(error).strip().splitlines()[0] if str(error).strip() else 'no more is known'}). "
            "Download it again, or get a .safetensors file of the same weights."
        ) from error


def _read_zipped(path: Path) -> Any:
    """Today's form: data.pkl in a zip archive, and each storage as a member of its own."""
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: info for info in archive.infolist()}
        name = next((name for name in members if name.split("/", 1)[-1] == "data.pkl"), None)
        if name is None:
            raise WeightsError(f"{path} is a zip archive without data.pkl: no file of PyTorch's.")
        root = name.removesuffix("data.pkl")
        order = f"{root}byteorder"
        if order in members and archive.read(order) != b"little":
            raise WeightsError(f"{path} was written by a big-endian machine; save it on another.")

        def storage(kind: Any, key: str, numel: int) -> Storage:
            info = members[f"{root}data/{key}"]
            if info.compress_type != zipfile.ZIP_STORED or info.file_size < numel * kind.itemsize:
                raise WeightsError(f"{path}: storage {key} is compressed or cut short.")
            return Storage(kind, numel, path, _start(path, info))

        with archive.open(name) as file:
            return _Reader(file, path, storage).load()


def _start(path: Path, info: zipfile.ZipInfo) -> int:
    """Where an archive's stored member starts: behind its own header, of varying length."""
    with open(path, "rb") as file:
        file.seek(info.header_offset + 26)
        name, extra = struct.unpack("<HH", file.read(4))
    return info.header_offset + 30 + name + extra


def _read_old(path: Path, file: BinaryIO) -> Any:
    """The form of before torch 1.6: pickles one after the other, then the storages."""
    storages: dict[str, Storage] = {}

    def storage(kind: Any, key: str, numel: int) -> Storage:
        return storages.setdefault(key, Storage(kind, numel, path))

    first = _Reader(file, path, storage).load()
    if first != MAGIC:
        return first  # a pickle that torch did not write
    for _ in ("the format's version", "the machine that wrote it"):
        _Reader(file, path, storage).load()
    content = _Reader(file, path, storage).load()
    for key in _Reader(file, path, storage).load():
        (numel,) = struct.unpack("<q", file.read(8))
        if numel != storages[key].numel:
            raise WeightsError(f"{path}: storage {key} has {numel} numbers, not as announced.")
        storages[key].offset = file.tell()
        file.seek(numel * storages[key].dtype.itemsize, 1)
    if file.tell() > path.stat().st_size:
        raise WeightsError(f"{path} is cut short. Download it again.")
    return _placed(content)


class _Waiting:
    """A tensor of the old form: where its storage starts is known only when all is read."""

    def __init__(self, *layout: Any):
        self.layout = layout


def _placed(content: Any) -> Any:
    """Puts tensors in the place of those that waited for their storages."""
    if isinstance(content, _Waiting):
        return _tensor(*content.layout)
    if isinstance(content, dict):
        return {name: _placed(value) for name, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_placed(value) for value in content]
    if isinstance(content, Foreign):
        content.state = _placed(content.state)
    return content


class _Reader(pickle.Unpickler):
    """Knows tensors, their storages and plain containers; all else becomes a Foreign."""

    def __init__(self, file: Any, path: Path, storage: Any):
        super().__init__(file, encoding="utf-8", errors="surrogateescape")
        self.path, self.storage = path, storage
        self.known: dict[str, Any] = {
            "collections.OrderedDict": Plain,
            "torch.Size": _size,
            "torch._utils._rebuild_tensor": _rebuild,
            "torch._utils._rebuild_tensor_v2": _rebuild,
            "torch._utils._rebuild_tensor_v3": _rebuild_untyped,
            "torch._utils._rebuild_parameter": _inner,
            "torch._utils._rebuild_parameter_with_state": _inner,
        }
        self.known |= {f"torch.{name}": _Kind(dtype) for name, dtype in STORAGES.items()}
        self.known["torch.storage.UntypedStorage"] = _Kind(STORAGES["UntypedStorage"])
        self.known |= {f"torch.{name}": _Kind(dtype) for name, dtype in NAMED.items()}

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full in self.known:
            return self.known[full]
        return type(name, (Foreign,), {"origin": full})

    def persistent_load(self, pid: Any) -> Any:
        if pid[0] == "module":  # a class of networks, with its source in files of before 1.6
            return pid[1]
        tag, kind, key, _, numel, *view = pid
        if tag != "storage" or any(view) or not isinstance(kind, _Kind):
            raise pickle.UnpicklingError(f"storage of an unknown form {tag!r} {kind!r}")
        return self.storage(kind.dtype, str(key), int(numel))


@dataclasses.dataclass(frozen=True)
class _Kind:
    """A dtype, where the pickle names a class of storages or a dtype of torch's."""

    dtype: np.dtype


def _size(values: Any = ()) -> tuple[int, ...]:
    return tuple(values)


def _inner(data: Any, *_: Any) -> Any:
    return data


def _rebuild(storage: Storage, offset: int, size: Any, stride: Any, *_: Any) -> Any:
    return _laid_out(storage, storage.dtype, offset, size, stride)


def _rebuild_untyped(
    storage: Storage,
    offset: int,
    size: Any,
    stride: Any,
    grad: Any,
    hooks: Any,
    kind: _Kind,
    *_: Any,
) -> Any:
    count = storage.numel // kind.dtype.itemsize
    typed = Storage(kind.dtype, count, storage.path, storage.offset)
    return _laid_out(typed, kind.dtype, offset, size, stride)


def _laid_out(storage: Storage, dtype: np.dtype, offset: int, size: Any, stride: Any) -> Any:
    layout = (storage, dtype, int(offset), tuple(map(int, size)), tuple(map(int, stride)))
    return _Waiting(*layout) if storage.offset < 0 else _tensor(*layout)


def _tensor(
    storage: Storage, dtype: np.dtype, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]
) -> Tensor:
    """A tensor over a storage, checked to lie inside it."""
    empty = 0 in shape
    reach = 0 if empty else 1 + sum((n - 1) * stride for n, stride in zip(shape, strides))
    inside = min((offset, *shape, *strides), default=0) >= 0 and offset + reach <= storage.numel
    if not inside or len(shape) != len(strides):
        raise WeightsError(
            f"{storage.path}: a tensor {list(shape)} with strides {list(strides)} does not lie in "
            f"its {storage.numel} numbers; damaged file."
        )
    start = storage.offset + offset * dtype.itemsize
    plain = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
    if empty or all(n == 1 or a == b for n, a, b in zip(shape, strides, plain)):
        return FileTensor(storage.path, start, shape, dtype)
    return Strided(FileTensor(storage.path, start, (reach,), dtype), shape, strides)
