"""GGUF, llama.cpp's files of language models: read, with quantised tensors brought to float32."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from brushjax.weights.rules import WeightsError
from brushjax.weights.store import Tensor, copy_cast

MAGIC = b"GGUF"
PLAIN = {"F32": np.float32, "F16": np.float16, "F64": np.float64}  # the others are dequantised


@dataclasses.dataclass(frozen=True)
class GGUFTensor(Tensor):
    """A tensor of a GGUF file, mapped into memory and dequantised when it is read.

    Attributes:
        entry: the library's record of it.
        heads: how many heads its rows belong to where llama.cpp has another order of a head's
            rows: features that turn together are neighbours there, half a head apart here.
    """

    entry: Any
    shape: tuple[int, ...]
    dtype: np.dtype
    heads: int | None

    def fill(self, out: np.ndarray) -> None:
        import gguf

        values = gguf.dequantize(self.entry.data, self.entry.tensor_type).reshape(self.shape)
        if self.heads is not None:
            pairs = values.reshape(self.heads, -1, 2, *self.shape[1:])
            values = pairs.swapaxes(1, 2).reshape(self.shape)
        copy_cast(out, values)


def read_gguf(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Reads what a GGUF file holds of a LLaMA.

    Returns:
        The unread tensors by llama.cpp's names, and the config under the key "config.llama".

    Raises:
        WeightsError: the gguf library is missing, the file is damaged, or it is another network.
    """
    try:
        import gguf
    except ImportError as error:
        raise WeightsError(
            f"{path} is a GGUF file, which needs a library: pip install -e '.[gguf]'."
        ) from error
    try:
        reader = gguf.GGUFReader(path)
    except (ValueError, IndexError) as error:
        raise WeightsError(f"{path} is a damaged GGUF file: {error}. Download it again.") from error
    notes = {name: field.contents() for name, field in reader.fields.items()}
    network = notes.get("general.architecture")
    if network != "llama":
        raise WeightsError(f"{path} holds the architecture {network!r}; expected 'llama'.")
    names = {entry.name for entry in reader.tensors}
    if "rope_freqs.weight" in names:
        raise WeightsError(
            f"{path} scales its rotary embeddings by a table (LLaMA 3), which GGUF files are not "
            f"read with; use the safetensors of the same weights."
        )
    config = _config(path, notes, "output.weight" not in names)
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    tensors: dict[str, Tensor] = {}
    for entry in reader.tensors:
        shape = tuple(int(size) for size in reversed(entry.shape))
        dtype = np.dtype(PLAIN.get(entry.tensor_type.name, np.float32))
        layer = entry.name.split(".")[-2]
        tensors[entry.name] = GGUFTensor(entry, shape, dtype, heads.get(layer))
    return tensors, {"config.llama": json.dumps(config)}


def _config(path: Path, notes: dict[str, Any], tied: bool) -> dict[str, Any]:
    """Returns the settings as a config.json has them."""
    try:
        width, count = notes["llama.embedding_length"], notes["llama.attention.head_count"]
        config = {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": len(notes["tokenizer.ggml.tokens"]),
            "hidden_size": width,
            "intermediate_size": notes["llama.feed_forward_length"],
            "num_hidden_layers": notes["llama.block_count"],
            "num_attention_heads": count,
            "num_key_value_heads": notes.get("llama.attention.head_count_kv", count),
            "head_dim": notes.get("llama.attention.key_length"),
            # The file holds float32's nearest: 9.999999747e-06 where 1e-05 was meant.
            "rms_norm_eps": float(str(np.float32(notes["llama.attention.layer_norm_rms_epsilon"]))),
            "max_position_embeddings": notes["llama.context_length"],
            "rope_theta": notes.get("llama.rope.freq_base", 1e4),
            "tie_word_embeddings": tied,
        }
    except KeyError as error:
        raise WeightsError(f"{path} lacks the setting {error}.") from error
    scaling = notes.get("llama.rope.scaling.type", "none")
    head = config["head_dim"] or width // count
    turned = notes.get("llama.rope.dimension_count", head)
    if scaling not in ("none", "linear") or turned != head:
        raise WeightsError(
            f"{path} has rotary embeddings of the kind {scaling!r} over {turned} of {head} "
            f"features; readable are none and linear, over all."
        )
    if scaling == "linear":
        factor = notes["llama.rope.scaling.factor"]
        config["rope_scaling"] = {"rope_type": "linear", "factor": factor}
    return config
