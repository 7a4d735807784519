"""Region tokens: features of three layers fused, cut out along boxes, and placed by their boxes."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float

from brushjax.models.fireedit.part import PartConfig
from brushjax.models.fireedit.proposals import corners
from brushjax.nn import GroupNorm, Rngs, conv, layer_norm, linear, own_samples

BOXES_AT_ONCE = 25  # cut out together: a hundred boxes of the finest map would hold a gigabyte


@dataclasses.dataclass(frozen=True)
class RegionEncoderConfig(PartConfig):
    """Settings of the region encoder; the defaults are Groma's.

    Attributes:
      channels: of every level's map.
      pos_hidden, feature_dim: widths of the box's embedding, and of what is cut out.
      out_dim: width of the language model.
      image_size: side of the picture that the vision transformer sees, pixels.
      compat: cut out where the code that trained the published weights does, which is not where
        the boxes are.
      strides_compat, strides_corrected: pixels for a cell of each level's map, finest first;
        null follows from the maps' size.
    """

    channels: int = 1024
    groups: int = 64
    pos_hidden: int = 256
    feature_dim: int = 1024
    out_dim: int = 4096
    levels: int = 3
    roi_output_size: int = 14
    sampling_ratio: int = 2
    num_fuse: int = 5
    image_size: int = 448
    compat: bool = True
    group_norm_eps: float = 1e-5
    layer_norm_eps: float = 1e-5
    strides_compat: tuple[float, ...] | None = None
    strides_corrected: tuple[float, ...] | None = None

    CLASS_NAME: ClassVar[str] = "RegionEncoder"
    FIXED: ClassVar[dict[str, tuple[Any, ...]]] = {"box_format": ("cx,cy,w,h in [0,1]",)}

    def __post_init__(self) -> None:
        if self.channels % 4:
            raise ValueError(f"expected channels divisible by 4, got {self.channels}")
        for strides in (self.strides_compat, self.strides_corrected):
            if strides is not None and len(strides) != self.levels:
                raise ValueError(f"expected {self.levels} strides, one a level, got {strides}")

    def strides(self, grid: int) -> tuple[float, ...]:
        """Returns pixels for a cell of each level's map; `grid` is the coarsest map's width."""
        given = self.strides_compat if self.compat else self.strides_corrected
        if given is not None:
            return given
        patch = self.image_size / grid / (2 if self.compat else 1)
        return tuple(patch / 2 ** (self.levels - 1 - level) for level in range(self.levels))


class FuseConv(nnx.Module):
    """Convolution, group norm, ReLU; one for all levels."""

    def __init__(self, config: RegionEncoderConfig, *, rngs: Rngs):
        width = config.channels
        self.conv = nnx.Conv(
            width,
            width,
            (3, 3),
            use_bias=False,
            rngs=rngs,  # pyright: ignore[reportArgumentType] - Keys stands in for Rngs
        )
        self.gn = GroupNorm(width, config.groups, config.group_norm_eps)

    def __call__(self, x: Float[Array, "B h w C"]) -> Float[Array, "B h w C"]:
        return jax.nn.relu(self.gn(self.conv(x)))


class LevelFusion(nnx.Module):
    """Maps of rising size from layers of one size, which then look at their neighbours.

    Source: Groma's `MLVLFuseModule`.
    """

    def __init__(self, config: RegionEncoderConfig, *, rngs: Rngs):
        width = config.channels
        self.input_conv = nnx.List(
            [conv(width + 2, width, 1, rngs=rngs) for _ in range(config.levels)]
        )
        self.fuse_convs = nnx.List([FuseConv(config, rngs=rngs) for _ in range(config.num_fuse)])

    def __call__(self, levels: tuple[Float[Array, "B h w C"], ...]) -> tuple[Array, ...]:
        """Returns a map for each level, the first the finest: of 4h x 4w, 2h x 2w, ... cells."""
        finest = len(levels) - 1
        maps = [self.enter(i, stretched(x, 2 ** (finest - i))) for i, x in enumerate(levels)]
        for fuse in self.fuse_convs:
            maps = [fuse(neighbours(maps, i)) for i in range(len(maps))]
        return tuple(maps)

    def enter(self, level: int, x: Float[Array, "B h w C"]) -> Float[Array, "B h w C"]:
        """Adds every cell's place, -1..1, as two channels and mixes them in."""
        batch, height, width, _ = x.shape
        rows, columns = (jnp.linspace(-1, 1, size, dtype=x.dtype) for size in (height, width))
        column, row = jnp.meshgrid(columns, rows)
        place = jnp.broadcast_to(jnp.stack([column, row], axis=-1), (batch, height, width, 2))
        return self.input_conv[level](jnp.concatenate([x, place], axis=-1))


def neighbours(maps: list[Array], level: int) -> Array:
    """Returns half of a level's channels beside a quarter of the coarser and of the finer level's.

    At the ends the level is its own neighbour.
    """
    own = maps[level]
    half, quarter = own.shape[-1] // 2, own.shape[-1] // 4
    coarser, finer = maps[min(level + 1, len(maps) - 1)], maps[max(level - 1, 0)]
    parts = (
        own[..., :half],
        _resized(coarser[..., half + quarter :], own.shape[1:3]),
        _resized(finer[..., half : half + quarter], own.shape[1:3]),
    )
    return jnp.concatenate(parts, axis=-1)


def stretched(x: Float[Array, "B h w C"], factor: int) -> Float[Array, "B H W C"]:
    """Enlarges a map; the corners' centres stay where they are."""
    return _resized(x, (x.shape[1] * factor, x.shape[2] * factor))


def _resized(x: Array, size: tuple[int, ...]) -> Array:
    """Interpolates linearly on a grid whose first and last cells are those of the map."""
    if x.shape[1:3] == tuple(size):
        return x
    rows, columns = (
        jnp.asarray(_hat(np.linspace(0, old - 1, new), old, np), x.dtype)
        for old, new in zip(x.shape[1:3], size, strict=True)
    )
    return jnp.einsum("Hh,Ww,bhwc->bHWc", rows, columns, x, precision="highest")


def _hat(places: Any, cells: int, xp: Any) -> Any:
    """Returns every cell's share in the values at places between 0 and cells - 1. [..., cells]"""
    return xp.maximum(0, 1 - abs(places[..., None] - xp.arange(cells, dtype=places.dtype)))


def roi_align(
    features: Float[Array, "h w C"],
    boxes: Float[Array, "n 4"],
    scale: float,
    size: tuple[int, int],
    samples: int,
) -> Float[Array, "n a b C"]:
    """Cuts boxes out of a map, each brought to `size`.

    A sample beyond a cell from the border is 0; nearer ones take the border's value. Boxes may be
    reversed, and come out mirrored then.

    Args:
      boxes: left, top, right, bottom in pixels.
      scale: cells for a pixel.
      size: rows and columns that come out.
      samples: averaged along each side of each of them.

    Source: Mask R-CNN (arXiv 1703.06870), section 3; mmcv's `roi_align` with `aligned=True`. The
      samples of a box lie on a grid, so that interpolation and mean are a matrix for each axis.
    """
    left, top, right, bottom = jnp.moveaxis(boxes * scale, -1, 0)
    rows = _read(top, bottom, features.shape[0], size[0], samples)  # [n, a, h]
    columns = _read(left, right, features.shape[1], size[1], samples)  # [n, b, w]
    return jnp.einsum("nah,nbw,hwc->nabc", rows, columns, features, precision="highest")


def _read(start: Array, end: Array, cells: int, bins: int, samples: int) -> Array:
    """Returns how much of every cell a box's bins read along one axis. [n, bins, cells]"""
    step = (end - start) / bins
    offsets = jnp.arange(bins, dtype=start.dtype)[:, None]
    within = (jnp.arange(samples, dtype=start.dtype) + 0.5) / samples
    place = (start - 0.5)[:, None, None] + step[:, None, None] * (offsets + within)  # [n, bins, s]
    inside = (place >= -1) & (place <= cells)
    shares = _hat(jnp.clip(place, 0, cells - 1), cells, jnp) * inside[..., None]
    return shares.mean(axis=2)


class RegionFeatures(nnx.Module):
    """Cuts boxes out of every level, joins them, and adds where they are.

    Source: Groma's `MLVLROIQueryModule`.
    """

    def __init__(self, config: RegionEncoderConfig, *, rngs: Rngs):
        width, norm = config.channels, config.layer_norm_eps
        hidden, out, side = config.pos_hidden, config.feature_dim, config.roi_output_size
        self.config = config
        self.pconvs = nnx.List([conv(width, width, rngs=rngs) for _ in range(config.levels)])
        self.flatten_linear = linear(width * side * side, out, rngs=rngs)
        self.pos_embedd = nnx.Dict(  # the published spelling; between them stand ReLUs
            {
                "0": linear(4, hidden, rngs=rngs),
                "2": layer_norm(hidden, norm, rngs=rngs),
                "3": linear(hidden, out, rngs=rngs),
                "5": layer_norm(out, norm, rngs=rngs),
            }
        )
        self.updims = linear(out, config.out_dim, rngs=rngs)

    def __call__(
        self, maps: tuple[Float[Array, "B _h _w C"], ...], boxes: Float[Array, "B n 4"]
    ) -> Float[Array, "B n D"]:
        """Returns regions before `updims`, which brings them to the language model's width."""
        pixels = boxes if self.config.compat else corners(boxes)
        cut = self.cut(maps, pixels * self.config.image_size)  # [B, n, C * a * a]
        return self.flatten_linear(cut) + self.place(boxes)

    def cut(
        self, maps: tuple[Float[Array, "B _h _w C"], ...], boxes: Float[Array, "B n 4"]
    ) -> Float[Array, "B n E"]:
        """Returns what lies in boxes (pixels), of all levels together, flat as the weights read it:
        channels, rows, columns.

        Pictures follow one another, and a picture's boxes go a few at a time.
        """
        side, samples = self.config.roi_output_size, self.config.sampling_ratio
        strides = self.config.strides(maps[-1].shape[2])

        def of_picture(item: tuple[Any, ...]) -> Array:
            maps, boxes = item

            def of_box(box: Float[Array, "4"]) -> Array:
                total = jnp.zeros((), box.dtype)
                for level, stride, mix in zip(maps, strides, self.pconvs, strict=True):
                    roi = roi_align(level, box[None], 1 / stride, (side, side), samples)
                    total = total + mix(roi)  # [1, a, a, C]
                return jax.nn.relu(total).transpose(0, 3, 1, 2).reshape(-1)

            return jax.lax.map(of_box, boxes, batch_size=BOXES_AT_ONCE)

        return own_samples(lambda *items: jax.lax.map(of_picture, items), maps, boxes)

    def place(self, boxes: Float[Array, "B n 4"]) -> Float[Array, "B n D"]:
        """Embeds where boxes are."""
        layers = self.pos_embedd
        x = layers["2"](jax.nn.relu(layers["0"](boxes)))
        return layers["5"](jax.nn.relu(layers["3"](x)))


class Levels(nnx.Module):
    """Both halves under Groma's name `region_encoder`."""

    def __init__(self, config: RegionEncoderConfig, *, rngs: Rngs):
        self.mlvl_fuse = LevelFusion(config, rngs=rngs)
        self.roi_align = RegionFeatures(config, rngs=rngs)


class RegionEncoder(nnx.Module):
    """Turns boxes into tokens for the language model: FireEdit's R of eq. 3.

    Source: Groma (arXiv 2404.13013), section 3.1.
    Differs: docs/deviations.md#fireedit-region-geometry.
    """

    def __init__(self, config: RegionEncoderConfig, *, rngs: Rngs):
        self.config = config
        self.region_encoder = Levels(config, rngs=rngs)

    def __call__(
        self,
        levels: tuple[Float[Array, "B h w C"], ...],
        boxes: Float[Array, "B n 4"],
        mask: Bool[Array, "B n"],
    ) -> Float[Array, "B n E"]:
        """Args:
          levels: hidden states of as many layers, without the class token, the earliest first.
          boxes: centre x, centre y, width, height as shares of the picture.
          mask: True where there is a box; elsewhere, and where a box is not finite, the token is 0.

        Raises:
          ValueError: for another number of levels.
        """
        return self.to_llm(self.features(levels, boxes, mask), boxes, mask)

    def features(
        self,
        levels: tuple[Float[Array, "B h w C"], ...],
        boxes: Float[Array, "B n 4"],
        mask: Bool[Array, "B n"],
    ) -> Float[Array, "B n D"]:
        """Returns regions before the last layer, which is trained with the language model."""
        if len(levels) != self.config.levels:
            raise ValueError(f"expected {self.config.levels} levels, got {len(levels)}")
        parts = self.region_encoder
        safe = jnp.where(present(boxes, mask)[..., None], boxes, 0)
        return parts.roi_align(parts.mlvl_fuse(levels), safe)

    def to_llm(
        self,
        features: Float[Array, "B n D"],
        boxes: Float[Array, "B n 4"],
        mask: Bool[Array, "B n"],
    ) -> Float[Array, "B n E"]:
        """Brings regions to the language model's width."""
        tokens = self.region_encoder.roi_align.updims(features)
        return jnp.where(present(boxes, mask)[..., None], tokens, 0)


def present(boxes: Float[Array, "B n 4"], mask: Bool[Array, "B n"]) -> Bool[Array, "B n"]:
    """Returns where there is a box of finite numbers."""
    return mask & jnp.isfinite(boxes).all(-1)
