"""The Deformable DETR that Groma trained on COCO and SA-1B."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from brushjax.models.fireedit.part import PartConfig
from brushjax.nn import Rngs, attention, layer_norm, linear

SMALLEST = 1e-5  # below this the inverse of the sigmoid is cut
PROPOSAL_MARGIN = 0.01  # cells whose centre is nearer to the border than this propose nothing
IOU_THRESHOLD, SCORE_THRESHOLD, MAX_REGIONS = 0.6, 0.15, 100  # of what is kept, as Groma's


@dataclasses.dataclass(frozen=True)
class ProposerConfig(PartConfig):
    """Settings of the detector; the defaults are Groma's.

    Attributes:
      dino_dim: channels of the feature map.
      queries: boxes that come out; the feature map needs at least as many cells.
      n_points: places that a query looks at, for each head.
      proposal_wh: side of the box that a cell proposes, as a share of the picture.
      nms_iou, score_threshold, max_regions: what `select` is to be called with.
    """

    dino_dim: int = 1024
    d_model: int = 256
    heads: int = 8
    encoder_layers: int = 6
    decoder_layers: int = 6
    ffn: int = 1024
    n_points: int = 4
    queries: int = 300
    bbox_hidden: int = 256
    layer_norm_eps: float = 1e-5
    input_norm_eps: float = 1e-6
    proposal_wh: float = 0.05
    nms_iou: float = IOU_THRESHOLD
    score_threshold: float = SCORE_THRESHOLD
    max_regions: int = MAX_REGIONS

    CLASS_NAME: ClassVar[str] = "Proposer"
    FIXED: ClassVar[dict[str, tuple[Any, ...]]] = {
        "num_feature_levels": (1,),
        "two_stage": (True,),
        "box_refine": (True,),
        "num_labels": (1,),
        "activation": ("relu",),
    }

    def __post_init__(self) -> None:
        if self.d_model % self.heads or self.d_model % 4:
            raise ValueError(
                f"expected d_model divisible by 4 and by its heads, got {self.d_model} and "
                f"{self.heads}"
            )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Encoded:
    """The encoder's share: where the decoder's queries start.

    Attributes:
      states: one for each cell. [B, h*w, D]
      scores: of every cell's box, a logit. [B, h*w]
      boxes: of every cell, logits. [B, h*w, 4]
      chosen: cells whose boxes the queries start from, best first. [B, Q]
      reference: the boxes of those cells. [B, Q, 4]
    """

    states: Float[Array, "B N D"]
    scores: Float[Array, "B N"]
    boxes: Float[Array, "B N 4"]
    chosen: Int[Array, "B Q"]
    reference: Float[Array, "B Q 4"]


class DeformableAttention(nnx.Module):
    """Each head of a query looks at a few places of the map, at offsets that the query says."""

    def __init__(self, config: ProposerConfig, *, rngs: Rngs):
        width, places = config.d_model, config.heads * config.n_points
        self.heads, self.points = config.heads, config.n_points
        self.value_proj = linear(width, width, rngs=rngs)
        self.sampling_offsets = linear(width, 2 * places, rngs=rngs)
        self.attention_weights = linear(width, places, rngs=rngs)
        self.output_proj = linear(width, width, rngs=rngs)

    def __call__(
        self,
        queries: Float[Array, "B Q D"],
        states: Float[Array, "B N D"],
        reference: Float[Array, "_B Q _R"],
        size: tuple[int, int],
    ) -> Float[Array, "B Q D"]:
        """Args:
        states: of the cells of a map of `size` (h, w), row by row.
        reference: points (x, y), from which offsets count in cells, or boxes (x, y, w, h), from
            which they count in half boxes, shared by the points; as shares of the map.

        Source: Deformable DETR (arXiv 2010.04159), eq. 2.
        """
        batch, count, _ = queries.shape
        shape = (batch, count, self.heads, self.points)
        offsets = self.sampling_offsets(queries).reshape(*shape, 2)  # [B, Q, K, P, 2]
        weights = jax.nn.softmax(self.attention_weights(queries).reshape(shape), axis=-1)
        centre = reference[:, :, None, None, :2]
        if reference.shape[-1] == 2:
            places = centre + offsets / jnp.asarray(size[::-1], offsets.dtype)
        else:
            half = reference[:, :, None, None, 2:] * 0.5
            places = centre + offsets / self.points * half
        values = self.value_proj(states).reshape(
            batch, -1, self.heads, queries.shape[-1] // self.heads
        )
        seen = looked_up(values, places, size)  # [B, Q, K, P, D/K]
        out = jnp.einsum("bqkp,bqkpd->bqkd", weights, seen)
        return self.output_proj(out.reshape(queries.shape))


def looked_up(
    values: Float[Array, "B N K D"], places: Float[Array, "B Q K P 2"], size: tuple[int, int]
) -> Float[Array, "B Q K P D"]:
    """Interpolates a map of `size` (h, w) between its cells' centres; outside it is 0.

    Args:
      values: of the cells, row by row.
      places: (x, y) as shares of the map.
    """
    height, width = size
    batch, count, heads, points, _ = places.shape
    values = values.transpose(0, 2, 1, 3)  # [B, K, N, D]
    xy = places.transpose(0, 2, 1, 3, 4).reshape(batch, heads, count * points, 2)
    x, y = xy[..., 0] * width - 0.5, xy[..., 1] * height - 0.5  # [B, K, Q*P]
    left, top = jnp.floor(x), jnp.floor(y)
    total = jnp.zeros((), values.dtype)
    for row, column in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
        inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        share = (1 - jnp.abs(y - row)) * (1 - jnp.abs(x - column)) * inside
        cell = jnp.where(inside, row * width + column, 0).astype(jnp.int32)
        total = total + jnp.take_along_axis(values, cell[..., None], axis=2) * share[..., None]
    return total.reshape(batch, heads, count, points, -1).transpose(0, 2, 1, 3, 4)


class SelfAttention(nnx.Module):
    """The queries look at each other; their places count for where to look alone."""

    def __init__(self, config: ProposerConfig, *, rngs: Rngs):
        self.heads = config.heads
        width = config.d_model
        self.q_proj = linear(width, width, rngs=rngs)
        self.k_proj = linear(width, width, rngs=rngs)
        self.v_proj = linear(width, width, rngs=rngs)
        self.out_proj = linear(width, width, rngs=rngs)

    def __call__(
        self, x: Float[Array, "B Q D"], position: Float[Array, "B Q D"]
    ) -> Float[Array, "B Q D"]:
        placed = x + position
        q, k, v = (
            project(source).reshape(*x.shape[:2], self.heads, -1)
            for project, source in ((self.q_proj, placed), (self.k_proj, placed), (self.v_proj, x))
        )
        return self.out_proj(attention(q, k, v).reshape(x.shape))


class FeedForward(nnx.Module):
    """What encoder and decoder layers end with; each residual is normed afterwards."""

    def __init__(self, config: ProposerConfig, *, rngs: Rngs):
        self.fc1 = linear(config.d_model, config.ffn, rngs=rngs)
        self.fc2 = linear(config.ffn, config.d_model, rngs=rngs)
        self.final_layer_norm = layer_norm(config.d_model, config.layer_norm_eps, rngs=rngs)

    def feed_forward(self, x: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        return self.final_layer_norm(x + self.fc2(jax.nn.relu(self.fc1(x))))


class EncoderLayer(FeedForward):
    """Deformable attention of the map to itself, then the feed-forward layer."""

    def __init__(self, config: ProposerConfig, *, rngs: Rngs):
        super().__init__(config, rngs=rngs)
        self.self_attn = DeformableAttention(config, rngs=rngs)
        self.self_attn_layer_norm = layer_norm(config.d_model, config.layer_norm_eps, rngs=rngs)

    def __call__(self, x: Array, position: Array, reference: Array, size: tuple[int, int]) -> Array:
        x = self.self_attn_layer_norm(x + self.self_attn(x + position, x, reference, size))
        return self.feed_forward(x)


class DecoderLayer(FeedForward):
    """Self-attention of the queries, their look at the map, the feed-forward layer."""

    def __init__(self, config: ProposerConfig, *, rngs: Rngs):
        super().__init__(config, rngs=rngs)
        width, epsilon = config.d_model, config.layer_norm_eps
        self.self_attn = SelfAttention(config, rngs=rngs)
        self.self_attn_layer_norm = layer_norm(width, epsilon, rngs=rngs)
        self.encoder_attn = DeformableAttention(config, rngs=rngs)
        self.encoder_attn_layer_norm = layer_norm(width, epsilon, rngs=rngs)

    def __call__(
        self, x: Array, position: Array, states: Array, reference: Array, size: tuple[int, int]
    ) -> Array:
        x = self.self_attn_layer_norm(x + self.self_attn(x, position))
        seen = self.encoder_attn(x + position, states, reference, size)
        return self.feed_forward(self.encoder_attn_layer_norm(x + seen))


class Stack(nnx.Module):
    """Layers under the published name `layers`."""

    def __init__(self, layers: list[nnx.Module]):
        self.layers = nnx.List(layers)


class BoxHead(nnx.Module):
    """Three linear layers to a box's four numbers."""

    def __init__(self, config: ProposerConfig, *, rngs: Rngs):
        width, hidden = config.d_model, config.bbox_hidden
        pairs = ((width, hidden), (hidden, hidden), (hidden, 4))
        self.layers = nnx.List([linear(*pair, rngs=rngs) for pair in pairs])

    def __call__(self, x: Float[Array, "B Q D"]) -> Float[Array, "B Q 4"]:
        return self.layers[2](jax.nn.relu(self.layers[1](jax.nn.relu(self.layers[0](x)))))


class Detector(nnx.Module):
    """Encoder, decoder and heads under the published name `ddetr_transformer`."""

    def __init__(self, config: ProposerConfig, *, rngs: Rngs):
        width, norm = config.d_model, config.layer_norm_eps
        layers = range(config.decoder_layers)
        self.config = config
        self.level_embed = nnx.Param(nnx.initializers.normal(1.0)(rngs.params(), (1, width)))
        self.encoder = Stack(
            [EncoderLayer(config, rngs=rngs) for _ in range(config.encoder_layers)]
        )
        self.decoder = Stack([DecoderLayer(config, rngs=rngs) for _ in layers])
        self.enc_output = linear(width, width, rngs=rngs)
        self.enc_output_norm = layer_norm(width, norm, rngs=rngs)
        self.pos_trans = linear(2 * width, 2 * width, rngs=rngs)
        self.pos_trans_norm = layer_norm(2 * width, norm, rngs=rngs)
        self.query_position_embeddings = nnx.Embed(config.queries, width, rngs=rngs)  # pyright: ignore[reportArgumentType]
        self.class_embed_enc = linear(width, 1, rngs=rngs)
        self.class_embed_coco = nnx.List([linear(width, 1, rngs=rngs) for _ in layers])
        self.class_embed_sa1b = nnx.List([linear(width, 1, rngs=rngs) for _ in layers])
        heads = config.decoder_layers + 1  # the last is for the encoder's boxes
        self.bbox_embed = nnx.List([BoxHead(config, rngs=rngs) for _ in range(heads)])

    def encode(self, features: Float[Array, "B h w D"]) -> Encoded:
        """Turns a map into states, a box for each cell, and the best of those boxes."""
        batch, height, width, channels = features.shape
        size, dtype = (height, width), features.dtype
        if height * width < self.config.queries:
            raise ValueError(
                f"expected a map of at least {self.config.queries} cells, one for each query, got "
                f"{height} x {width}; enlarge the picture"
            )
        position = jnp.asarray(map_positions(height, width, channels), dtype)
        position = position[None] + self.level_embed[...][0]  # [1, N, D]
        centres = jnp.asarray(cell_centres(height, width), dtype)[None]  # [1, N, 2]
        x = features.reshape(batch, -1, channels)  # [B, N, D]
        for layer in self.encoder.layers:
            x = layer(x, position, centres, size)

        wanted = jnp.full_like(centres, self.config.proposal_wh)
        start = jnp.concatenate([centres, wanted], axis=-1)  # [1, N, 4]
        valid = ((start > PROPOSAL_MARGIN) & (start < 1 - PROPOSAL_MARGIN)).all(-1, keepdims=True)
        start = jnp.where(valid, jnp.log(start / (1 - start)), jnp.inf)
        y = self.enc_output_norm(self.enc_output(jnp.where(valid, x, 0)))  # [B, N, D]
        scores = self.class_embed_enc(y)[..., 0]  # [B, N]
        boxes = self.bbox_embed[-1](y) + start  # [B, N, 4]
        _, chosen = jax.lax.top_k(scores, self.config.queries)  # [B, Q]
        reference = jax.nn.sigmoid(jnp.take_along_axis(boxes, chosen[..., None], axis=1))
        return Encoded(x, scores, boxes, chosen, jax.lax.stop_gradient(reference))

    def decode(self, encoded: Encoded, size: tuple[int, int]) -> tuple[Float[Array, "B Q D"], ...]:
        """Returns every decoder layer's queries. All layers look around the same boxes.

        Differs from transformers' class: docs/deviations.md#fireedit-proposer.
        """
        reference = encoded.reference
        placed = self.pos_trans_norm(self.pos_trans(box_positions(reference, self.config.d_model)))
        position = placed[..., : self.config.d_model]  # [B, Q, D]; the other half is not used
        x = jnp.broadcast_to(self.query_position_embeddings.embedding[...], position.shape)
        outputs = []
        for layer in self.decoder.layers:
            x = layer(x, position, encoded.states, reference, size)
            outputs.append(x)
        return tuple(outputs)

    def boxes(
        self,
        states: tuple[Float[Array, "B Q D"], ...],
        reference: Float[Array, "B Q 4"],
        layer: int,
    ) -> Float[Array, "B Q 4"]:
        """Returns a decoder layer's boxes, a step from those of the layer before it."""
        if layer > 0:
            reference = moved(reference, self.bbox_embed[layer - 1](states[layer - 1]))
        return moved(reference, self.bbox_embed[layer](states[layer]))


def moved(boxes: Array, change: Array) -> Array:
    """Moves boxes in 0..1 by a change of their logits."""
    boxes = jnp.clip(boxes, 0, 1)
    logits = jnp.log(jnp.maximum(boxes, SMALLEST) / jnp.maximum(1 - boxes, SMALLEST))
    return jax.nn.sigmoid(change + logits)


def cell_centres(height: int, width: int) -> np.ndarray:
    """Returns (x, y) of every cell's centre as shares of the map, row by row. [N, 2]"""
    y, x = np.meshgrid(
        (np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width, indexing="ij"
    )
    return np.stack([x, y], axis=-1).reshape(-1, 2)


def map_positions(height: int, width: int, channels: int) -> np.ndarray:
    """Returns waves of every cell's place, those of y before those of x. [N, D]"""
    shares = (cell_centres(1, size)[:, 0] * size / (size + 1e-6) for size in (height, width))
    y, x = (_waves(2 * np.pi * share, channels // 2, np) for share in shares)  # [h, D/2], [w, D/2]
    y, x = np.broadcast_arrays(y[:, None], x[None, :])
    return np.concatenate([y, x], axis=-1).reshape(height * width, channels)


def box_positions(boxes: Float[Array, "B Q 4"], channels: int) -> Float[Array, "B Q E"]:
    """Returns waves of x, y, w and h, in this order, twice as wide as the model."""
    waves = _waves(2 * np.pi * boxes, channels // 2, jnp)  # [B, Q, 4, D/2]
    return waves.reshape(*boxes.shape[:2], -1)


def _waves(angles: Any, width: int, xp: Any) -> Any:
    """Returns sine and cosine in turn at `width // 2` frequencies from 1 down to 1/10000."""
    periods = 10000.0 ** (2 * np.arange(width // 2) / width)
    turned = angles[..., None] / xp.asarray(periods, angles.dtype)  # [..., width / 2]
    return xp.stack([xp.sin(turned), xp.cos(turned)], axis=-1).reshape(*angles.shape, -1)
