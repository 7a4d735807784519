"""PyTorch's pickled files: their tensors come out to the bit, and nothing of them is run."""

import collections
import pickle
import sys
import types

import numpy as np
import pytest
import torch

from brushjax import weights
from brushjax.weights.formats import read_file
from brushjax.weights.formats.pickles import Foreign, read_content

pytestmark = pytest.mark.torch

BITS = torch.randint(-(2**15), 2**15, (6, 4), generator=torch.Generator().manual_seed(0))
TENSORS = {
    "float32": torch.randn(3, 5, generator=torch.Generator().manual_seed(1)),
    "float64": torch.randn(2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2)),
    "bfloat16": BITS.to(torch.int16).view(torch.bfloat16),
    "float16": torch.arange(7).half(),
    "int64": torch.arange(5),
    "uint8": torch.arange(5, dtype=torch.uint8),
    "bool": torch.tensor([True, False]),
    "scalar": torch.tensor(2.5),
    "empty": torch.zeros(0, 3),
    "float8": torch.arange(8).float().to(torch.float8_e4m3fn),
}
VIEWS = {
    "transposed": TENSORS["float32"].T,
    "slice": torch.arange(40.0).reshape(5, 8)[1:4, 2:7:2],
    "expanded": torch.arange(3.0)[:, None].expand(3, 4),
    "parameter": torch.nn.Parameter(torch.ones(3)),
}


def bits(array):
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


@pytest.mark.parametrize("zipped", [True, False])
def test_pickle_tensors_of_every_dtype_and_layout_come_out_to_the_bit(tmp_path, zipped):
    content = collections.OrderedDict(TENSORS | VIEWS)
    if not zipped:
        content.pop("float8")  # newer than the old form
    torch.save(content, tmp_path / "x.bin", _use_new_zipfile_serialization=zipped)
    tensors, _ = read_file(tmp_path / "x.bin")
    assert tensors.keys() == content.keys()
    for name, expected in content.items():
        expected = expected.detach().contiguous()
        assert tensors[name].shape == tuple(expected.shape)
        assert str(tensors[name].dtype) == str(expected.dtype).removeprefix("torch.")
        whole = expected.reshape(-1).view(torch.uint8).numpy()
        np.testing.assert_array_equal(bits(tensors[name].array()), whole, name)
    rows = tensors["transposed"].rows(1, 4).array()
    np.testing.assert_array_equal(rows, VIEWS["transposed"][1:4].numpy())


@pytest.fixture
def foreign(monkeypatch):
    """A class of a module that is gone when the file is read."""
    names = ["their_trainer", "their_trainer.callbacks"]
    for name in names:
        sys.modules[name] = types.ModuleType(name)
    made = type("ModelCheckpoint", (), {"__module__": names[-1], "__qualname__": "ModelCheckpoint"})
    sys.modules[names[-1]].ModelCheckpoint = made
    yield made
    for name in names:
        sys.modules.pop(name, None)


@pytest.mark.parametrize("zipped", [True, False])
def test_training_checkpoint_with_a_class_beside_the_weights_is_read(tmp_path, foreign, zipped):
    state = {"state_dict": dict(TENSORS), "callbacks": {foreign: {"monitor": "loss"}}}
    state |= {"object": foreign(), "epoch": 13, "time": np.float64(2.0)}
    if not zipped:
        del state["state_dict"]["float8"]
    torch.save(state, tmp_path / "x.ckpt", _use_new_zipfile_serialization=zipped)
    del sys.modules["their_trainer.callbacks"]
    tensors, _ = read_file(tmp_path / "x.ckpt")
    np.testing.assert_array_equal(tensors["float32"].array(), TENSORS["float32"].numpy())
    beside = read_content(tmp_path / "x.ckpt")
    assert isinstance(beside["object"], Foreign)
    assert beside["epoch"] == 13


def test_weights_that_are_another_programs_object_are_refused_by_its_name(tmp_path, foreign):
    whole = foreign()
    whole.weight = torch.ones(2)
    for content in (whole, {"state_dict": whole}, {"state_dict": {"a": torch.ones(1), "b": whole}}):
        torch.save(content, tmp_path / "x.ckpt")
        with pytest.raises(
            weights.WeightsError, match=r"need their_trainer\.callbacks\.ModelCheck"
        ):
            read_file(tmp_path / "x.ckpt")
    torch.save(torch.ones(2).to_sparse(), tmp_path / "x.ckpt")
    with pytest.raises(weights.WeightsError, match=r"need torch\._utils\._rebuild_sparse_tensor"):
        read_file(tmp_path / "x.ckpt")
    torch.save([torch.ones(2)], tmp_path / "x.ckpt")
    with pytest.raises(weights.WeightsError, match="holds a list: expected tensors by name"):
        read_file(tmp_path / "x.ckpt")


def program(*opcodes):
    return b"".join((pickle.PROTO + b"\x02", *opcodes, pickle.STOP))


SPRING = pickle.GLOBAL + b"os\nmkdir\n" + pickle.MARK + pickle.BINUNICODE + b"%b" + pickle.TUPLE


@pytest.mark.parametrize(
    "what", ["os\nmkdir", "builtins\neval", "builtins\nexec", "builtins\ngetattr", "posix\nsystem"]
)
@pytest.mark.parametrize("how", [pickle.REDUCE, pickle.NEWOBJ, pickle.REDUCE + pickle.MARK + pickle.
                         DICT + pickle.BUILD])  # fmt: skip
def test_functions_that_a_pickle_names_are_never_called(tmp_path, what, how):
    place = str(tmp_path / "sprung")
    argument = place if "mkdir" in what else f"__import__('os').mkdir({place!r})"
    data = argument.encode()
    text = pickle.BINUNICODE + len(data).to_bytes(4, "little") + data
    call = pickle.GLOBAL + what.encode() + b"\n" + text + pickle.TUPLE1 + how
    (tmp_path / "x.ckpt").write_bytes(program(call))
    with pytest.raises(weights.WeightsError, match=f"need {what.split()[0]}"):
        read_file(tmp_path / "x.ckpt")
    assert [path.name for path in tmp_path.iterdir()] == ["x.ckpt"]


def test_what_a_pickle_does_to_what_is_known_here_does_not_outlive_it(tmp_path):
    """Attributes set on a function or a class of the reader would change every later file."""
    name = pickle.GLOBAL + b"torch._utils\n_rebuild_tensor_v2\n"
    change = pickle.NONE + pickle.EMPTY_DICT + pickle.BINUNICODE + (12).to_bytes(4, "little")
    change += b"__defaults__" + pickle.NONE + pickle.SETITEM + pickle.TUPLE2 + pickle.BUILD
    (tmp_path / "evil.ckpt").write_bytes(program(name + change))
    with pytest.raises(weights.WeightsError):
        read_file(tmp_path / "evil.ckpt")
    torch.save(TENSORS, tmp_path / "x.bin")
    assert read_file(tmp_path / "x.bin")[0].keys() == TENSORS.keys()


@pytest.mark.parametrize("zipped", [True, False])
def test_every_truncation_of_a_pickle_is_one_clear_error(tmp_path, zipped):
    torch.save({"a": torch.arange(40.0)}, tmp_path / "x.bin",
               _use_new_zipfile_serialization=zipped)  # fmt: skip
    whole = (tmp_path / "x.bin").read_bytes()
    for length in range(2, len(whole), 7):
        (tmp_path / "x.bin").write_bytes(whole[:length])
        with pytest.raises(weights.WeightsError):
            read_file(tmp_path / "x.bin")


def test_tensor_that_reaches_beyond_its_storage_is_refused(tmp_path):
    values = torch.arange(4.0)
    torch.save({"a": values}, tmp_path / "x.bin")
    content = (tmp_path / "x.bin").read_bytes()
    changed = content.replace(b"K\x00K\x04\x85", b"K\x03K\x04\x85")  # offset 0, size (4,)
    assert changed != content
    (tmp_path / "x.bin").write_bytes(changed)
    with pytest.raises(weights.WeightsError, match=r"does not lie in its 4 numbers|damaged"):
        read_file(tmp_path / "x.bin")
