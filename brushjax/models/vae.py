"""AutoencoderKL: images to latents and back."""

import dataclasses
import itertools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from brushjax.models.published import PublishedConfig
from brushjax.nn import Attention, Downsample, GroupNorm, ResnetBlock, Rngs, Upsample, conv

EPSILON = 1e-6  # every norm of the published VAEs


@dataclasses.dataclass(frozen=True)
class VAEConfig(PublishedConfig):
    """Settings of a published `AutoencoderKL`; the defaults are Stable Diffusion 1's and 2's."""

    in_channels: int = 3
    out_channels: int = 3
    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
    layers_per_block: int = 2
    latent_channels: int = 4
    norm_num_groups: int = 32
    scaling_factor: float = 0.18215
    force_upcast: bool | None = None  # half precision gives NaN or worse pictures; None: not said

    CLASS_NAME: ClassVar[str] = "AutoencoderKL"
    FIXED: ClassVar[dict[str, tuple[Any, ...]]] = {
        "act_fn": ("silu",),
        "shift_factor": (None,),
        "latents_mean": (None,),
        "latents_std": (None,),
        "use_quant_conv": (True,),
        "use_post_quant_conv": (True,),
        "mid_block_add_attention": (True,),
    }
    # Block types repeat what AutoencoderKL is.
    HARMLESS: ClassVar[frozenset[str]] = frozenset(
        {"sample_size", "down_block_types", "up_block_types"}
    )

    @classmethod
    def sdxl(cls) -> "VAEConfig":
        """The VAE of SDXL."""
        return cls(scaling_factor=0.13025, force_upcast=True)

    def to_dict(self) -> dict[str, Any]:
        blocks = len(self.block_out_channels)
        types = {
            "down_block_types": ["DownEncoderBlock2D"] * blocks,
            "up_block_types": ["UpDecoderBlock2D"] * blocks,
        }
        published = types | super().to_dict()
        if self.force_upcast is None:  # diffusers takes absence for True
            del published["force_upcast"]
        return published


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Posterior:
    """The Gaussian over latents that the encoder gives, in the units of the published weights.

    Attributes:
      mean: [B, h, w, C]
      logvar: natural logarithm of the variance, clamped to [-30, 20]. [B, h, w, C]
    """

    mean: Float[Array, "B h w C"]
    logvar: Float[Array, "B h w C"]

    def mode(self) -> Float[Array, "B h w C"]:
        """Returns the most likely latent."""
        return self.mean

    def sample(self, key: Array) -> Float[Array, "B h w C"]:
        """Draws a latent."""
        dtype = jnp.promote_types(self.mean.dtype, jnp.float32)  # bfloat16 has 128 normal values
        noise = jax.random.normal(key, self.mean.shape, dtype).astype(self.mean.dtype)
        return self.mean + jnp.exp(0.5 * self.logvar) * noise


class MidBlock(nnx.Module):
    """Two residual blocks around one self-attention head over all positions."""

    def __init__(self, channels: int, groups: int, *, rngs: Rngs):
        self.resnets = nnx.List([_resnet(channels, channels, groups, rngs=rngs) for _ in range(2)])
        self.attentions = nnx.List([SpatialAttention(channels, groups, rngs=rngs)])

    def __call__(self, x: Float[Array, "B h w C"]) -> Float[Array, "B h w C"]:
        x = self.resnets[0](x)
        x = self.attentions[0](x)
        return self.resnets[1](x)


class SpatialAttention(Attention):
    """Single-head self-attention over positions with its own norm and residual."""

    def __init__(self, channels: int, groups: int, *, rngs: Rngs):
        super().__init__(channels, 1, bias=True, rngs=rngs)
        self.group_norm = GroupNorm(channels, groups, EPSILON)

    def __call__(self, x: Float[Array, "B h w C"]) -> Float[Array, "B h w C"]:
        batch, height, width, channels = x.shape
        tokens = self.group_norm(x).reshape(batch, height * width, channels)  # [B, L, C]
        return x + super().__call__(tokens).reshape(x.shape)  # [B, h, w, C]


class DownBlock(nnx.Module):
    """Residual blocks, then halves the size unless it is the last block."""

    def __init__(
        self, channels_in: int, channels: int, config: VAEConfig, *, last: bool, rngs: Rngs
    ):
        groups = config.norm_num_groups
        widths = (channels_in,) + (channels,) * config.layers_per_block
        self.resnets = nnx.List(
            [_resnet(*pair, groups, rngs=rngs) for pair in itertools.pairwise(widths)]
        )
        self.downsamplers = nnx.List(
            [] if last else [Downsample(channels, symmetric=False, rngs=rngs)]
        )

    def __call__(self, x: Float[Array, "B h w C"]) -> Float[Array, "B _h _w E"]:
        for layer in (*self.resnets, *self.downsamplers):
            x = layer(x)
        return x


class UpBlock(nnx.Module):
    """Residual blocks, then doubles the size unless it is the last block."""

    def __init__(
        self, channels_in: int, channels: int, config: VAEConfig, *, last: bool, rngs: Rngs
    ):
        groups = config.norm_num_groups
        widths = (channels_in,) + (channels,) * (config.layers_per_block + 1)
        self.resnets = nnx.List(
            [_resnet(*pair, groups, rngs=rngs) for pair in itertools.pairwise(widths)]
        )
        self.upsamplers = nnx.List([] if last else [Upsample(channels, rngs=rngs)])

    def __call__(self, x: Float[Array, "B h w C"]) -> Float[Array, "B _h _w E"]:
        for layer in (*self.resnets, *self.upsamplers):
            x = layer(x)
        return x


class Encoder(nnx.Module):
    """Image to the moments of the latent posterior."""

    def __init__(self, config: VAEConfig, *, rngs: Rngs):
        widths = config.block_out_channels
        groups = config.norm_num_groups
        self.conv_in = conv(config.in_channels, widths[0], rngs=rngs)
        pairs = list(zip((widths[0], *widths), widths, strict=False))
        self.down_blocks = nnx.List(
            [
                DownBlock(*pair, config, last=i == len(pairs) - 1, rngs=rngs)
                for i, pair in enumerate(pairs)
            ]
        )
        self.mid_block = MidBlock(widths[-1], groups, rngs=rngs)
        self.conv_norm_out = GroupNorm(widths[-1], groups, EPSILON)
        self.conv_out = conv(widths[-1], 2 * config.latent_channels, rngs=rngs)

    def __call__(self, images: Float[Array, "B H W C"]) -> Float[Array, "B h w E"]:
        x = self.conv_in(images)  # [B, H, W, C]
        for block in self.down_blocks:
            x = block(x)  # halved each time but the last
        x = self.mid_block(x)
        return self.conv_out(jax.nn.silu(self.conv_norm_out(x)))  # [B, h, w, 2 * latent]


class Decoder(nnx.Module):
    """Latent to image."""

    def __init__(self, config: VAEConfig, *, rngs: Rngs):
        widths = config.block_out_channels[::-1]
        groups = config.norm_num_groups
        self.conv_in = conv(config.latent_channels, widths[0], rngs=rngs)
        self.mid_block = MidBlock(widths[0], groups, rngs=rngs)
        pairs = list(zip((widths[0], *widths), widths, strict=False))
        self.up_blocks = nnx.List(
            [
                UpBlock(*pair, config, last=i == len(pairs) - 1, rngs=rngs)
                for i, pair in enumerate(pairs)
            ]
        )
        self.conv_norm_out = GroupNorm(widths[-1], groups, EPSILON)
        self.conv_out = conv(widths[-1], config.out_channels, rngs=rngs)

    def __call__(self, latents: Float[Array, "B h w C"]) -> Float[Array, "B H W E"]:
        x = self.mid_block(self.conv_in(latents))  # [B, h, w, C]
        for block in self.up_blocks:
            x = block(x)  # doubled each time but the last
        return self.conv_out(jax.nn.silu(self.conv_norm_out(x)))  # [B, H, W, 3]


class AutoencoderKL(nnx.Module):
    """The variational autoencoder of Stable Diffusion.

    `encode` and `decode` speak the published units; `to_latents` and `to_images` apply the scaling
    factor that makes latents about unit variance, and are the only place where it is applied.
    Source: diffusers `AutoencoderKL`.
    """

    def __init__(self, config: VAEConfig, *, rngs: Rngs):
        latent = config.latent_channels
        self.config = config
        self.encoder = Encoder(config, rngs=rngs)
        self.quant_conv = conv(2 * latent, 2 * latent, 1, rngs=rngs)
        self.post_quant_conv = conv(latent, latent, 1, rngs=rngs)
        self.decoder = Decoder(config, rngs=rngs)

    @property
    def factor(self) -> int:
        """Pixels per latent cell along a side."""
        return 2 ** (len(self.config.block_out_channels) - 1)

    def encode(self, images: Float[Array, "B H W C"]) -> Posterior:
        """Returns the posterior over raw latents of images in [-1, 1].

        Raises:
          ValueError: if a side is no multiple of `factor`.
        """
        if images.shape[1] % self.factor or images.shape[2] % self.factor:
            raise ValueError(
                f"expected image sides that are multiples of {self.factor}, "
                f"got {images.shape[1:3]}; resize or pad the image first"
            )
        moments = self.quant_conv(self.encoder(images))  # [B, h, w, 2 * latent]
        mean, logvar = jnp.split(moments, 2, axis=-1)
        return Posterior(mean, jnp.clip(logvar, -30.0, 20.0))

    def decode(self, latents: Float[Array, "B h w C"]) -> Float[Array, "B H W E"]:
        """Returns images, about in [-1, 1], of raw latents."""
        return self.decoder(self.post_quant_conv(latents))

    def to_latents(
        self, images: Float[Array, "B H W C"], key: Array | None = None
    ) -> Float[Array, "B h w E"]:
        """Returns scaled latents of images in [-1, 1]: the mode, or a sample given a key."""
        posterior = self.encode(images)
        latents = posterior.mode() if key is None else posterior.sample(key)
        return latents * self.config.scaling_factor

    def to_images(self, latents: Float[Array, "B h w C"]) -> Float[Array, "B H W E"]:
        """Returns images, about in [-1, 1], of scaled latents."""
        return self.decode(latents / self.config.scaling_factor)


def working_dtype(dtype: Any, force_upcast: bool) -> Any:
    """Returns what an autoencoder computes in where the other networks compute in `dtype`.

    Float32 where its config says `force_upcast`, and in place of float16, whose largest number,
    65504, activations of published decoders pass.
    Source: diffusers' `StableDiffusionXLPipeline.upcast_vae`, which knows float16 alone.
    """
    dtype = jnp.dtype(dtype)
    narrow = dtype == jnp.float16 or (force_upcast and dtype.itemsize < 4)
    return jnp.dtype(jnp.float32) if narrow else dtype


def in_working_dtype(params: Any, config: VAEConfig) -> Any:
    """Returns an autoencoder's parameters in the dtype that it computes in."""

    def cast(x: Any) -> Any:
        dtype = working_dtype(x.dtype, bool(config.force_upcast))
        return x if x.dtype == dtype else x.astype(dtype)

    return jax.tree.map(cast, params)


def _resnet(channels_in: int, channels_out: int, groups: int, *, rngs: Rngs) -> ResnetBlock:
    return ResnetBlock(
        channels_in, channels_out, time_width=None, groups=groups, epsilon=EPSILON, rngs=rngs
    )
