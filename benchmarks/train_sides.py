"""The two sides of benchmarks/train_step.py: each runs a step when a line arrives.

python -m benchmarks.train_sides {torch,jax} SETTINGS_AS_JSON
"""

import json
import os
import resource
import sys
import time
from types import SimpleNamespace

import numpy as np

from benchmarks.pod_sizes import BASES, recipe
from tests.random_weights import Weights, weight

SD15 = {
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}
TINY = SD15 | {
    "block_out_channels": (8, 8, 16, 16),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "cross_attention_dim": 32,
    "attention_head_dim": 2,
}
TEXT = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12}
TEXT |= {"num_attention_heads": 12, "vocab_size": 49408, "max_position_embeddings": 77}
TINY_TEXT = TEXT | {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
TINY_TEXT |= {"num_attention_heads": 2}


def draw_inputs(options, settings):
    """Draws noisy latent, target noise, condition (NCHW), timesteps and text features."""
    rng = np.random.default_rng(0)
    size = (options.latents, options.latents)
    sample, target, condition = (
        rng.standard_normal((options.batch, channels, *size), np.float32) for channels in (4, 4, 5)
    )
    context = rng.standard_normal((options.batch, 77, settings["cross_attention_dim"]), np.float32)
    return sample, target, condition, np.full(options.batch, 500), context


def torch_gradient(options):
    """Forward and backward pass in float32 on the CPU, weights drawn by name."""
    import torch
    from diffusers import UNet2DConditionModel

    from tests.torch_reference import TorchBranch, injected

    torch.set_num_threads(options.threads)
    settings = TINY if options.tiny else SD15

    def build(name, kind, trained):
        with torch.device("meta"):
            model = kind(**settings)
        for module in model.modules():
            for key, parameter in module.named_parameters(recurse=False):
                empty = torch.nn.Parameter(torch.empty(parameter.shape), requires_grad=trained)
                setattr(module, key, empty)
        with torch.no_grad():
            for key, parameter in model.named_parameters():
                parameter.copy_(torch.from_numpy(weight(name, key, tuple(parameter.shape))))
        return model.eval()

    unet = build("unet", UNet2DConditionModel, False)
    branch = build("branch", TorchBranch, True)
    inputs = map(torch.from_numpy, draw_inputs(options, settings))
    sample, target, condition, timestep, context = inputs

    def step():
        branch.zero_grad(set_to_none=True)
        residuals = branch(sample, timestep, condition)
        prediction = injected(unet, sample, timestep, context, residuals)
        loss = (prediction - target).square().mean()
        loss.backward()
        gradients = [p.grad for p in branch.parameters() if p.grad is not None]
        torch.nn.utils.get_total_norm(gradients).item()  # work that our step does too

        def norm():
            """To compare: the sum above, in float32, is off by 1e-3 for large kernels."""
            parts = [torch.linalg.vector_norm(each, dtype=torch.float64) for each in gradients]
            return torch.stack(parts).norm().item()

        return loss.item(), norm

    return step, resident, 0.0


def jax_gradient(options):
    """The same in one compiled program."""
    import jax
    import jax.numpy as jnp
    import optax
    from flax import nnx

    from brushjax.models import BrushNet, BrushNetConfig, UNet, UNetConfig
    from brushjax.nn import Keys
    from tests.support import fill, nhwc, torch_names

    settings = TINY if options.tiny else SD15

    def build(name, kind, config):
        names = torch_names(nnx.eval_shape(lambda: kind(config, rngs=Keys(0))))
        return fill(kind, config, Weights(name, {key: shape for key, (_, shape) in names.items()}))

    unet = build("unet", UNet, UNetConfig(**settings))
    branch = build("branch", BrushNet, BrushNetConfig(**settings))
    sample, target, condition, timestep, context = draw_inputs(options, settings)
    inputs = nhwc(sample), nhwc(target), nhwc(condition), jnp.asarray(timestep), context

    @jax.jit
    def gradient(branch, unet, sample, target, condition, timestep, context):
        def loss(branch):
            residuals = branch(sample, timestep, condition)
            prediction = unet(sample, timestep, context, residuals)
            return jnp.square(prediction - target).mean()

        value, gradients = jax.value_and_grad(loss)(branch)
        return value, optax.tree.norm(gradients), gradients

    def step():
        loss, norm, _ = jax.block_until_ready(gradient(branch, unet, *inputs))
        return float(loss), float(norm)

    return step, resident, 0.0


def torch_step(options):
    """A whole step on a GPU: compiled, the branch under bfloat16 autocast, the rest in bfloat16."""
    import torch
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from tests.torch_reference import TorchBranch, injected

    settings = TINY if options.tiny else SD15
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with torch.device(device):
        unet = UNet2DConditionModel(**settings).bfloat16().requires_grad_(False).eval()
        text_config = CLIPTextConfig(**(TINY_TEXT if options.tiny else TEXT))
        text = CLIPTextModel(text_config).bfloat16().requires_grad_(False).eval()
        branch = TorchBranch(**settings)
        ids = torch.zeros((options.batch, 77), dtype=torch.long)
    trained = list(branch.parameters())
    optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=device == "cuda")
    cumulative = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2, 0)
    cumulative = cumulative.to(device)
    size = (options.latents, options.latents)
    mean = torch.randn((options.batch, 4, *size), device=device)
    condition = torch.randn((options.batch, 5, *size), device=device)

    def loss_of(latents, noise, timestep):
        share = cumulative[timestep][:, None, None, None]
        noisy = share.sqrt() * latents + (1 - share).sqrt() * noise
        context = text(ids).last_hidden_state
        with torch.autocast(device, torch.bfloat16):
            residuals = branch(noisy, timestep, condition)
            prediction = injected(unet, noisy.bfloat16(), timestep, context, residuals)
        return (prediction.float() - noise).square().mean()

    if not options.tiny:
        loss_of = torch.compile(loss_of)

    def step():
        optimizer.zero_grad(set_to_none=True)
        timestep = torch.randint(0, 1000, (options.batch,), device=device)
        loss = loss_of(mean, torch.randn_like(mean), timestep)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        return loss.item(), norm.item()  # waits for the device

    def peak():
        return torch.cuda.max_memory_allocated() if device == "cuda" else resident()

    return step, peak, 0.0


def jax_step(options):
    """The step that a run takes, on random weights made on the device."""
    import jax

    from brushjax.training.plan import make_plan
    from brushjax.training.scale.ahead import step_shapes
    from brushjax.training.scale.flops import useful_flops
    from brushjax.training.step import step_of

    base = "" if options.tiny else BASES["sd15"][0]
    size = 8 * options.latents
    config = recipe(base, size, options.batch, rematerialise=options.rematerialise)
    plan = make_plan(config, jax.devices()[:1])
    shapes = step_shapes(config, plan)

    def filled(tree, seed):
        keys = jax.random.split(jax.random.key(seed), len(jax.tree.leaves(tree)))
        keys = jax.tree.unflatten(jax.tree.structure(tree), list(keys))
        return jax.tree.map(fill_one, keys, tree)

    def fill_one(key, leaf):
        if not jax.numpy.issubdtype(leaf.dtype, jax.numpy.floating):
            return jax.numpy.zeros(leaf.shape, leaf.dtype)
        return 0.02 * jax.random.normal(key, leaf.shape, leaf.dtype)

    state, frozen, batch = (
        jax.jit(lambda tree=tree, seed=seed: filled(tree, seed))()
        for seed, tree in enumerate(shapes)
    )
    state["optimizer"] = jax.tree.map(abs, state["optimizer"])  # second moments are positive
    train = step_of(config, plan)

    def step():
        nonlocal state
        state, metrics = train(state, frozen, batch)
        return float(metrics["loss"]), float(metrics["gradient_norm"])

    def peak():
        figures = jax.devices()[0].memory_stats()
        return figures["peak_bytes_in_use"] if figures else resident()

    return step, peak, useful_flops(config)


def resident():
    """Returns the peak of this process's memory in bytes."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main():
    """Answers every line with a step's figures."""
    name, options = sys.argv[1], SimpleNamespace(**json.loads(sys.argv[2]))
    answers, sys.stdout = sys.stdout, sys.stderr  # whatever a library prints is no answer
    if options.device == "cpu":
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])
    kind = "gradient" if options.device == "cpu" else "step"
    step, peak, useful = globals()[f"{name}_{kind}"](options)
    for _ in sys.stdin:
        start = time.perf_counter(), time.process_time()
        loss, norm = step()
        row = {"wall": time.perf_counter() - start[0], "cpu": time.process_time() - start[1]}
        row |= {"loss": loss, "gradient_norm": norm() if callable(norm) else norm}
        row |= {"useful": useful}
        print(json.dumps(row | {"peak": peak()}), file=answers, flush=True)


if __name__ == "__main__":
    main()
