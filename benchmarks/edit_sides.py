"""The sides of benchmarks/edit_full_size.py: each runs an edit when a line arrives.

python -m benchmarks.edit_sides {torch,torch_compiled,jax} SETTINGS_AS_JSON
"""

import json
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from benchmarks.train_sides import SD15, TINY, resident
from tests.random_weights import Weights, weight

SCHEDULER = {
    "_class_name": "PNDMScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "clip_sample": False,
}
GUIDANCE = 7.5
VAE = {"block_out_channels": (128, 256, 512, 512), "norm_num_groups": 32}
TINY_VAE = {"block_out_channels": (8, 8, 8, 8), "norm_num_groups": 4}


def draw_inputs(options, settings):
    """Draws noise and masked latent (NCHW), text features of both halves, picture and mask."""
    rng = np.random.default_rng(0)
    shape = (options.batch, 4, options.latents, options.latents)
    noise, masked = rng.standard_normal((2, *shape), np.float32)
    text = (2, options.batch, 77, settings["cross_attention_dim"])
    negative, positive = rng.standard_normal(text, np.float32)
    side = 8 * options.latents
    picture = rng.integers(0, 256, (options.batch, side, side, 3), np.uint8)
    mask = np.zeros((options.batch, side, side, 1), np.uint8)
    mask[:, side // 4 : side // 2, side // 4 : side // 2] = 1
    return SimpleNamespace(
        noise=noise,
        masked=masked,
        negative=negative,
        positive=positive,
        picture=picture * (1 - mask),
        mask=mask,
    )


def run_torch(options, compiled=False):
    """The reference pipeline's loop: branch and UNet on both halves of guidance."""
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

    from tests.torch_reference import TorchBranch, injected

    torch.set_num_threads(options.threads)
    settings, on_gpu = (TINY if options.tiny else SD15), options.device == "gpu"
    device, dtype = ("cuda", torch.bfloat16) if on_gpu else ("cpu", torch.float32)

    def build(name, kind, **settings):
        with torch.device("meta"):
            model = kind(**settings)
        model = model.to_empty(device=device)
        with torch.no_grad():
            for key, parameter in model.named_parameters():
                parameter.copy_(torch.from_numpy(weight(name, key, tuple(parameter.shape))))
        model = model.to(dtype).requires_grad_(False).eval()
        return model.to(memory_format=torch.channels_last) if compiled else model

    unet = build("unet", UNet2DConditionModel, **settings)
    branch = build("branch", TorchBranch, **settings)
    scheduler = DDIMScheduler.from_config(SCHEDULER)
    drawn = draw_inputs(options, settings)
    tensor = lambda x: torch.from_numpy(np.ascontiguousarray(x)).to(device, dtype)  # noqa: E731
    context = tensor(np.concatenate([drawn.negative, drawn.positive]))
    keep = tensor(1 - drawn.mask[:, ::8, ::8, 0])[:, None]

    def predict(sample, timestep, context, condition):
        residuals = branch(sample, timestep, condition)
        return injected(unet, sample, timestep, context, residuals)

    vae = None
    if on_gpu:
        vae = build("vae", AutoencoderKL, **vae_settings(options, torch=True))
    if compiled:
        predict = torch.compile(predict)

    @torch.inference_mode()
    def edit():
        latents, masked = torch.from_numpy(drawn.noise).to(device), tensor(drawn.masked)
        if vae is not None:
            pixels = tensor(drawn.picture.transpose(0, 3, 1, 2) / np.float32(127.5) - 1)
            masked = vae.encode(pixels).latent_dist.mode() * 0.18215
        condition = torch.cat([torch.cat([masked, keep], dim=1)] * 2)
        scheduler.set_timesteps(options.steps)
        for timestep in scheduler.timesteps:
            twice = torch.cat([latents] * 2).to(dtype)
            time = timestep.to(device).expand(len(twice))
            negative, positive = predict(twice, time, context, condition).float().chunk(2)
            guided = negative + GUIDANCE * (positive - negative)
            latents = scheduler.step(guided, timestep, latents).prev_sample
        if vae is not None:
            pictures = vae.decode((latents / 0.18215).to(dtype)).sample
            ((pictures / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8).cpu()
        return latents.cpu().numpy().transpose(0, 2, 3, 1)

    peak = torch.cuda.max_memory_allocated if on_gpu else resident
    return edit, peak


def run_torch_compiled(options):
    """The same with torch.compile and channels_last."""
    return run_torch(options, compiled=True)


def run_jax(options):
    """The same in one compiled program, nothing computed twice."""
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from brushjax.diffusion.samplers import make_sampler
    from brushjax.inference.engine.edit import Graphs, denoise, edit
    from brushjax.inference.engine.options import Condition, EditInputs, EditOptions
    from brushjax.inference.engine.program import padded_inputs
    from brushjax.models import AutoencoderKL, BrushNet, BrushNetConfig, UNet, UNetConfig, VAEConfig
    from brushjax.models.brushnet import keep_mask_condition
    from brushjax.nn import Keys
    from tests.support import fill, nhwc, torch_names

    settings, on_gpu = (TINY if options.tiny else SD15), options.device == "gpu"
    dtype = jnp.bfloat16 if on_gpu else jnp.float32

    def build(name, kind, config):
        names = torch_names(nnx.eval_shape(lambda: kind(config, rngs=Keys(0))))
        model = fill(kind, config, Weights(name, {key: shape for key, (_, shape) in names.items()}))
        graph, state = nnx.split(model)
        return graph, jax.tree.map(lambda x: x.astype(dtype), nnx.to_pure_dict(state))

    parts = {
        "unet": build("unet", UNet, UNetConfig(**settings)),
        "brushnet": build("branch", BrushNet, BrushNetConfig(**settings)),
        "vae": build("vae", AutoencoderKL, VAEConfig(**vae_settings(options))),
    }
    graphs = Graphs(**{name: graph for name, (graph, _) in parts.items()})
    params = {name: values for name, (_, values) in parts.items()}
    drawn = draw_inputs(options, settings)
    exact = make_sampler("ddim", SCHEDULER, options.steps)
    inputs = EditInputs(
        masked=drawn.picture,
        masks=drawn.mask,
        noise=nhwc(drawn.noise),
        conditions=(Condition(drawn.negative), Condition(drawn.positive)),
        guidance=GUIDANCE,
        scales=np.ones(exact.steps, np.float32),
    )
    inputs, sampler = padded_inputs(inputs, exact), exact.padded()
    params, inputs = jax.device_put((params, inputs))

    @jax.jit
    def loop(params, masked, inputs):
        unet, branch = (nnx.merge(parts[name][0], params[name]) for name in ("unet", "brushnet"))
        condition = keep_mask_condition(masked, inputs.masks)
        return denoise(unet, branch, condition, sampler, inputs, EditOptions())

    def run():
        if on_gpu:
            return jax.device_get(edit(graphs, params, sampler, inputs))[0]
        return np.asarray(loop(params, nhwc(drawn.masked).astype(dtype), inputs))

    def peak():
        figures = jax.devices()[0].memory_stats()
        return figures["peak_bytes_in_use"] if figures else resident()

    return run, peak


def vae_settings(options, torch=False):
    """The published VAE's, or a tiny one's; diffusers' class also wants the block types."""
    settings = dict(TINY_VAE if options.tiny else VAE, layers_per_block=2, latent_channels=4)
    if torch:
        settings |= {
            "down_block_types": ("DownEncoderBlock2D",) * 4,
            "up_block_types": ("UpDecoderBlock2D",) * 4,
        }
    return settings


def profiled(run, folder):
    """Wraps `run` so that its latest call leaves a trace in `folder`."""
    import jax

    def traced():
        with jax.profiler.trace(folder):
            return run()

    return traced


def main():
    """Answers every line with an edit's figures; leaves the last latents in the folder."""
    name, options = sys.argv[1], SimpleNamespace(**json.loads(sys.argv[2]))
    answers, sys.stdout = sys.stdout, sys.stderr  # whatever a library prints is no answer
    if options.device == "cpu":
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])
    run, peak = globals()[f"run_{name}"](options)
    if options.profile and name == "jax":
        run = profiled(run, options.profile)
    for _ in sys.stdin:
        start = time.perf_counter(), time.process_time()
        latents = run()
        wall, cpu = time.perf_counter() - start[0], time.process_time() - start[1]
        if options.device == "cpu":
            np.save(Path(options.folder) / f"{name}.npy", latents)
        print(json.dumps({"wall": wall, "cpu": cpu, "peak": peak()}), file=answers, flush=True)


if __name__ == "__main__":
    main()
