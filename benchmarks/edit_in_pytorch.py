"""The same edit with diffusers' and transformers' classes and here, from the same files.

    python -m benchmarks.edit_in_pytorch --brushnet runs/quickstart/export
    python -m benchmarks.edit_in_pytorch --base FOLDER --brushnet FOLDER --image a.png --mask m.png

Loads a base in diffusers layout and a branch into PyTorch, edits a picture from the same initial
noise on both sides, and prints the largest difference of the final latents in units of their
standard deviation, and of the pictures in levels of 255. --out writes both side by side. The branch
is composed of diffusers' own blocks; with the BrushNet repository installed,
`BrushNetModel.from_pretrained(FOLDER)` reads the same folder. Needs the `test` extra.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel, UniPCMultistepScheduler
from PIL import Image
from safetensors.torch import load_file
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from brushjax.pipelines.bases import SHIPPED_BASE
from tests.torch_reference import TorchBranch, injected

SCHEDULERS = {"ddim": DDIMScheduler, "unipc": UniPCMultistepScheduler}
# Settings of the branch's config that diffusers' UNet, whose blocks are used, doesn't know.
BRANCH_ONLY = ("brushnet_conditioning_channel_order", "conditioning_embedding_out_channels")
BRANCH_ONLY += ("global_pool_conditions", "in_channels")


def load_branch(folder):
    """Loads a branch in diffusers layout."""
    folder = Path(folder)
    if (folder / "brushnet").is_dir():  # what a training run exports
        folder = folder / "brushnet"
    settings = json.loads((folder / "config.json").read_text())
    settings = {name: value for name, value in settings.items() if not name.startswith("_")}
    for name in BRANCH_ONLY:
        settings.pop(name, None)
    if settings.get("mid_block_type") == "MidBlock2D":  # without attention: the composition's own
        del settings["mid_block_type"]
    branch = TorchBranch(**settings).eval()
    branch.load_state_dict(load_file(folder / "diffusion_pytorch_model.safetensors"))
    return branch.float()


def encode_text(base, prompts):
    """Returns context and, for SDXL, pooled text of prompts."""
    xl = (base / "text_encoder_2").is_dir()
    contexts, pooled = [], None
    for suffix in ("", "_2") if xl else ("",):
        tokenizer = CLIPTokenizer.from_pretrained(base / f"tokenizer{suffix}")
        kind = CLIPTextModelWithProjection if suffix else CLIPTextModel
        encoder = kind.from_pretrained(base / f"text_encoder{suffix}").float().eval()
        ids = tokenizer(
            prompts, padding="max_length", max_length=77, truncation=True, return_tensors="pt"
        ).input_ids
        output = encoder(ids, output_hidden_states=True)
        contexts.append(output.hidden_states[-2] if xl else output.last_hidden_state)
        pooled = output.text_embeds if suffix else None
    return torch.cat(contexts, dim=-1), pooled


def prepare(image, mask):
    """The recipe of BrushNet's scripts: black hole, multiples of 8, [-1, 1], keep mask; NCHW."""
    size = tuple(side - side % 8 for side in (image.shape[1], image.shape[0]))
    hole = (mask > 127)[..., None]
    masked = Image.fromarray(image * ~hole).resize(size, Image.Resampling.LANCZOS)
    keep = Image.fromarray(mask).resize(size, Image.Resampling.LANCZOS)
    pixels = torch.from_numpy(np.array(masked)).permute(2, 0, 1)[None] / 255 * 2 - 1
    keep = (torch.from_numpy(np.array(keep)) / 255 * 2 - 1 < 0).float()[None, None]
    return pixels, keep


@torch.no_grad()
def edit(base, branch, image, mask, prompt, noise, *, scheduler, steps, guidance, negative=""):
    """Edits a picture in PyTorch.

    Args:
        base, branch: folders in diffusers layout.
        image, mask: uint8 [H, W, 3] and [H, W], white = edit.
        noise: [1, h, w, 4], as `brushjax.Inpainter` takes it.

    Returns:
        Final latents [1, h, w, 4] and the decoded picture, uint8 [H8, W8, 3].
    """
    base = Path(base)
    unet = UNet2DConditionModel.from_pretrained(base / "unet").float().eval()
    vae = AutoencoderKL.from_pretrained(base / "vae").float().eval()
    branch = load_branch(branch)
    sampler = SCHEDULERS[scheduler].from_pretrained(base / "scheduler")
    sampler.set_timesteps(steps)
    context, pooled = encode_text(base, [negative, prompt])
    pixels, keep = prepare(image, mask)
    height, width = pixels.shape[2:]
    added = None
    if pooled is not None:
        added = (pooled, torch.tensor([[height, width, 0, 0, height, width]] * 2).float())
    latent = vae.encode(pixels).latent_dist.mode() * vae.config.scaling_factor
    condition = torch.cat([latent, torch.nn.functional.interpolate(keep, latent.shape[2:])], dim=1)
    condition = torch.cat([condition, condition])
    x = torch.from_numpy(np.array(noise)).permute(0, 3, 1, 2) * sampler.init_noise_sigma
    for timestep in sampler.timesteps:
        pair = sampler.scale_model_input(torch.cat([x, x]), timestep)
        time = timestep.expand(2)
        residuals = branch(pair, time, condition, added=added)
        away, towards = injected(unet, pair, time, context, residuals, added).chunk(2)
        x = sampler.step(away + guidance * (towards - away), timestep, x).prev_sample
    picture = vae.decode(x / vae.config.scaling_factor).sample
    picture = ((picture / 2 + 0.5).clamp(0, 1) * 255).round().byte()
    return x.permute(0, 2, 3, 1).numpy(), picture[0].permute(1, 2, 0).numpy()


def ours(base, branch, image, mask, prompt, noise, *, negative="", **settings):
    """The same here."""
    import brushjax

    painter = brushjax.Inpainter.load(base, branch)
    result = painter(image, mask, prompt, negative, initial_noise=noise, blend="none", **settings)
    return result.latents, result.images[0]


def main():
    """Edits on both sides and prints the difference."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", type=Path, default=SHIPPED_BASE, help="diffusers folder")
    parser.add_argument("--brushnet", type=Path, required=True, help="diffusers folder")
    parser.add_argument("--image", type=Path, default=SHIPPED_BASE.parent / "photos/cat.jpg")
    parser.add_argument("--mask", type=Path, help="white = edit; default: a square in the middle")
    parser.add_argument("--prompt", default="a cat")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--scheduler", choices=SCHEDULERS, default="unipc")
    parser.add_argument(
        "--side", type=int, default=128, help="of the square to scale the picture to"
    )
    parser.add_argument("--out", type=Path, help="picture to write both results to")
    options = parser.parse_args()
    size = (options.side, options.side)
    image = np.array(Image.open(options.image).convert("RGB").resize(size))
    mask = np.zeros(size, np.uint8)
    mask[options.side // 4 : -options.side // 4, options.side // 4 : -options.side // 4] = 255
    if options.mask:
        mask = np.array(Image.open(options.mask).convert("L").resize(size))
    noise = np.random.default_rng(0).standard_normal((1, *(s // 8 for s in size), 4), np.float32)
    settings = {name: getattr(options, name) for name in ("scheduler", "steps", "guidance")}
    shared = (options.base, options.brushnet, image, mask, options.prompt, noise)
    (latents, picture), (ours_latents, ours_picture) = (
        edit(*shared, **settings),
        ours(*shared, **settings),
    )
    difference = np.abs(ours_latents - latents).max() / latents.std()
    levels = np.abs(ours_picture.astype(int) - picture).max()
    print(f"final latents: largest difference {difference:.2e} of their standard deviation")
    print(f"pictures: largest difference {levels} of 255 levels")
    if options.out:
        Image.fromarray(np.hstack([picture, ours_picture])).save(options.out)
        print(f"{options.out}: PyTorch's picture, then ours")


if __name__ == "__main__":
    main()
