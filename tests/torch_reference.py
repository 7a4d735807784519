"""References composed of diffusers' own blocks: the branch, and a UNet that takes its residuals."""

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.unets.unet_2d_blocks import UNetMidBlock2D

NOTHING = (0,) * 64  # in place of residuals, of which no model takes more


def precise_sinusoid(
    timesteps, embedding_dim, flip_sin_to_cos=False, downscale_freq_shift=1, scale=1
):
    """Replaces diffusers' `get_timestep_embedding`, which always computes in float32."""
    half = embedding_dim // 2
    exponents = torch.arange(half, dtype=torch.float64) / (half - downscale_freq_shift)
    angles = scale * timesteps[:, None].double() * 10000.0**-exponents
    parts = (angles.sin(), angles.cos())
    return torch.cat(parts[::-1] if flip_sin_to_cos else parts, dim=-1)


def randomize(model, seed=0, dtype=torch.float64):
    """Moves every weight of a new model off its start, so that no norm, bias or zero is trivial."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    return model.eval().to(dtype)


def arrays(model):
    """Returns a model's state dict as numpy arrays."""
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


class TorchBranch(torch.nn.Module):
    """BrushNet's branch: a UNet's blocks as the config names them, and a tap on each output."""

    def __init__(self, conditioning_channels=5, **settings):
        super().__init__()
        widths, groups = settings["block_out_channels"], settings["norm_num_groups"]
        blocks = len(widths)
        kinds = {"down_block_types": ("DownBlock2D",) * blocks, "mid_block_type": None}
        kinds |= {"up_block_types": ("UpBlock2D",) * blocks}
        settings = kinds | settings | {"in_channels": 4 + conditioning_channels}
        body = UNet2DConditionModel(**settings)
        self.conv_in_condition = body.conv_in
        self.time_proj, self.time_embedding = body.time_proj, body.time_embedding
        if settings.get("addition_embed_type"):
            self.add_time_proj, self.add_embedding = body.add_time_proj, body.add_embedding
        self.down_blocks, self.up_blocks = body.down_blocks, body.up_blocks
        self.mid_block = body.mid_block or UNetMidBlock2D(
            widths[-1],
            4 * widths[0],
            resnet_eps=1e-5,
            resnet_groups=groups,
            attention_head_dim=widths[-1],
            add_attention=False,
        )
        self.brushnet_down_blocks = taps([widths[0], *outputs_of(self.down_blocks)])
        self.brushnet_mid_block = torch.nn.Conv2d(widths[-1], widths[-1], 1)
        self.brushnet_up_blocks = taps(outputs_of(self.up_blocks))

    def forward(self, sample, timestep, condition, context=None, added=None):
        """Returns the residuals: down, mid, up."""
        time = embed_time(self, sample, timestep, added)
        x = self.conv_in_condition(torch.cat([sample, condition], dim=1))
        down, mid, up = walk(self, x, time, context, NOTHING, 0, NOTHING)
        down = [tap(x) for tap, x in zip(self.brushnet_down_blocks, down, strict=True)]
        up = [tap(x) for tap, x in zip(self.brushnet_up_blocks, up, strict=True)]
        return down, self.brushnet_mid_block(mid), up


def injected(unet, sample, timestep, context, residuals, added=None):
    """Runs a diffusers UNet block by block with a branch's residuals added."""
    time = embed_time(unet, sample, timestep, added)
    down, mid, up = residuals
    _, _, outputs = walk(unet, unet.conv_in(sample), time, context, down, mid, up)
    return unet.conv_out(unet.conv_act(unet.conv_norm_out(outputs[-1])))


def embed_time(model, sample, timestep, added):
    """Embeds the timestep and, for SDXL, `added`: pooled text and sizes."""
    time = model.time_embedding(model.time_proj(timestep).to(sample.dtype))
    if added is None:
        return time
    text, sizes = added
    waves = model.add_time_proj(sizes.flatten()).reshape(len(text), -1).to(sample.dtype)
    return time + model.add_embedding(torch.cat([text, waves], dim=-1))


def walk(model, x, time, context, down, mid, up):
    """Runs all blocks; returns what the down layers, the mid block and the up layers gave.

    The residuals enter where BrushNet's fork of diffusers adds them: the first behind `conv_in`,
    after its output was stored as a skip; every other one before its layer's output is stored.
    """
    downs, down, up = [x], iter(down), iter(up)
    x = plus(x, next(down))
    for block in model.down_blocks:
        for layer in layers_of(block):
            x = plus(run(block, layer, x, time, context), next(down))
            downs.append(x)
    attends = getattr(model.mid_block, "has_cross_attention", False)
    text = {"encoder_hidden_states": context} if attends else {}
    middle = x = plus(model.mid_block(x, time, **text), mid)
    skips, ups = list(downs), []
    for block in model.up_blocks:
        for layer in layers_of(block):
            if layer in list(block.resnets):
                x = run(block, layer, torch.cat([x, skips.pop()], dim=1), time, context)
            else:
                x = layer(x, skips[-1].shape[2:])  # odd sizes meet their skips
            x = plus(x, next(up))
            ups.append(x)
    return downs, middle, ups


def plus(x, residual):
    """Adds a residual, unless it is one of NOTHING."""
    return x if isinstance(residual, int) else x + residual


def layers_of(block):
    """Returns a block's residual blocks and resamplers."""
    resamplers = getattr(block, "downsamplers", None) or getattr(block, "upsamplers", None) or []
    return [*block.resnets, *resamplers]


def outputs_of(blocks):
    """Returns the width of every layer's output."""
    return [layer.out_channels for block in blocks for layer in layers_of(block)]


def run(block, layer, x, time, context):
    """Runs a residual block and its transformer, or a downsampler."""
    positions = [i for i, resnet in enumerate(block.resnets) if resnet is layer]
    if not positions:
        return layer(x)
    x = layer(x, time)
    if getattr(block, "attentions", None):
        attend = block.attentions[positions[0]]
        (x,) = attend(x, encoder_hidden_states=context, return_dict=False)
    return x


def taps(widths):
    """Builds the branch's 1x1 convolutions."""
    return torch.nn.ModuleList([torch.nn.Conv2d(width, width, 1) for width in widths])


def noise(seed, *shape):
    """Draws a standard normal array in float64."""
    return np.random.default_rng(seed).standard_normal(shape)
