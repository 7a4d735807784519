"""Names and shapes of T5's encoder, alone or in the file of a whole T5."""

from __future__ import annotations

from typing import Any

from brushjax.weights.maps.unet import count
from brushjax.weights.rules import Dialect, Ignored, Shapes, WeightMap

FIRST = "encoder.block.0.layer."
ATTENTION = f"{FIRST}0.SelfAttention."
FEED_FORWARD = f"{FIRST}1.DenseReluDense."


def infer(shapes: Shapes) -> dict[str, Any]:
    """Tells the config from transformers' names."""
    vocabulary, width = shapes["shared.weight"]
    num_buckets, heads = shapes[f"{ATTENTION}relative_attention_bias.weight"]
    gated = f"{FEED_FORWARD}wi_0.weight" in shapes
    return {
        "architectures": ["T5EncoderModel"],
        "vocab_size": vocabulary,
        "d_model": width,
        "d_kv": shapes[f"{ATTENTION}q.weight"][0] // heads,
        "d_ff": shapes[f"{FEED_FORWARD}{'wi_0' if gated else 'wi'}.weight"][0],
        "num_layers": count(shapes, "encoder.block."),
        "num_heads": heads,
        "feed_forward_proj": "gated-gelu" if gated else "relu",
        "relative_attention_num_buckets": num_buckets,
    }


SIGN = "shared.weight"
T5 = WeightMap(
    kind="t5",
    folder="t5",
    stem="model",
    classes=("T5EncoderModel", "T5ForConditionalGeneration", "T5Model"),
    model=("brushjax.models.encoders.t5", "T5Encoder", "T5Config"),
    dialects=(Dialect("diffusers", "", SIGN, infer),),
    ldm_dialect=lambda config, kinds: Dialect("ldm", "", SIGN, infer),
    ignored=(
        Ignored(r"^(en|de)coder\.embed_tokens\.weight$", "the table of shared.weight once more"),
        Ignored(r"^(decoder|lm_head)\.", "the decoder of a whole T5"),
    ),
)
