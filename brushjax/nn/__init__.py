"""The layers that every network here is built of; none of them knows a model."""

from brushjax.nn.attention import Attention, KeyValue, Streams, attention, part
from brushjax.nn.batch import broadcast_batch, plus, repeated
from brushjax.nn.embeddings import TimestepEmbedding, sinusoid
from brushjax.nn.execution import (
    Execution,
    constrain,
    executing,
    execution,
    own_samples,
    rematerialised,
)
from brushjax.nn.layers import (
    GroupNorm,
    Keys,
    RMSNorm,
    Rngs,
    Shapes,
    conv,
    layer_norm,
    linear,
    zero_conv,
)
from brushjax.nn.projection import Projection, projection, quantize
from brushjax.nn.resnet import Downsample, ResnetBlock, TimeShift, Upsample
from brushjax.nn.transformer import Transformer2D

__all__ = [
    "Attention",
    "Downsample",
    "Execution",
    "GroupNorm",
    "KeyValue",
    "Keys",
    "Projection",
    "RMSNorm",
    "ResnetBlock",
    "Rngs",
    "Shapes",
    "Streams",
    "TimeShift",
    "TimestepEmbedding",
    "Transformer2D",
    "Upsample",
    "attention",
    "broadcast_batch",
    "constrain",
    "conv",
    "executing",
    "execution",
    "layer_norm",
    "linear",
    "own_samples",
    "part",
    "plus",
    "projection",
    "quantize",
    "rematerialised",
    "repeated",
    "sinusoid",
    "zero_conv",
]
