"""Guided edits of SD 1.5 at 512 px and SDXL at 1024 px, here and in PyTorch."""

import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np

from benchmarks.edit_sides import GUIDANCE, SCHEDULER, draw_inputs, vae_settings
from benchmarks.gpu.profiles import profiled
from benchmarks.gpu.weights import networks, row, seconds, torch_module
from benchmarks.train_sides import SD15, TINY

SDXL = SD15 | {
    "block_out_channels": (320, 640, 1280),
    "attention_head_dim": (5, 10, 20),
    "transformer_layers_per_block": (1, 2, 10),
    "use_linear_projection": True,
    "cross_attention_dim": 2048,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
    "down_block_types": ("DownBlock2D",) + ("CrossAttnDownBlock2D",) * 2,
    "up_block_types": ("CrossAttnUpBlock2D",) * 2 + ("UpBlock2D",),
}
TINY_SDXL = SDXL | {
    "block_out_channels": (8, 16, 16),
    "norm_num_groups": 4,
    "attention_head_dim": (1, 2, 2),
    "transformer_layers_per_block": (1, 1, 2),
    "cross_attention_dim": 32,
    "addition_time_embed_dim": 4,
    "projection_class_embeddings_input_dim": 16 + 24,
}
POOLED = {False: 1280, True: 16}
SHORT, LONG = 6, 16  # steps of the same program, whose difference is that of steps alone


def side(options, xl=False):
    """Side of the latents, and steps of an edit."""
    if options.tiny:
        return (16, 2) if xl else (8, 2)
    return (128, LONG) if xl else (64, 50)


def settings_of(options, xl=False):
    """The UNet's, and those of the branch, whose blocks have no attention."""
    unet = (TINY_SDXL if options.tiny else SDXL) if xl else (TINY if options.tiny else SD15)
    blocks = len(unet["block_out_channels"])
    plain = {"down_block_types": ("DownBlock2D",) * blocks}
    plain |= {"up_block_types": ("UpBlock2D",) * blocks}
    return unet, unet | plain


def drawn(options, batch, xl=False):
    """Inputs of both sides."""
    cells, _ = side(options, xl)
    how = SimpleNamespace(batch=batch, latents=cells)
    return draw_inputs(how, settings_of(options, xl)[0])


def build(options, xl=False):
    """Our networks on the device: {name: graph} and {name: parameters}."""
    import jax.numpy as jnp

    from brushjax.models import AutoencoderKL, BrushNet, BrushNetConfig, UNet, UNetConfig, VAEConfig

    unet, branch = settings_of(options, xl)
    kinds = {
        "unet": (UNet, UNetConfig(**unet)),
        "brushnet": (BrushNet, BrushNetConfig(**branch)),
        "vae": (AutoencoderKL, VAEConfig(**vae_settings(options))),
    }
    return networks(kinds, jnp.bfloat16)


def make_inputs(options, batch, steps, xl=False):
    """The inputs of `EditProgram`."""
    from brushjax.inference.engine.options import Condition, EditInputs
    from brushjax.typing import AddedCondition

    given, added = drawn(options, batch, xl), (None, None)
    if xl:
        pixels = 8.0 * side(options, xl)[0]
        sizes = np.tile(np.array([pixels, pixels, 0, 0, pixels, pixels], np.float32), (batch, 1))
        pooled = np.zeros((batch, POOLED[options.tiny]), np.float32)
        added = (AddedCondition(pooled, sizes), AddedCondition(pooled + 1, sizes))
    return EditInputs(
        masked=given.picture,
        masks=given.mask,
        noise=np.ascontiguousarray(given.noise.transpose(0, 2, 3, 1)),
        conditions=(Condition(given.negative, added[0]), Condition(given.positive, added[1])),
        guidance=np.float32(GUIDANCE),
        scales=np.ones(steps, np.float32),
        seeds=np.arange(batch, dtype=np.uint32),
    )


def make_program(options, xl=False):
    """The program that `brushjax.Inpainter` runs, and its networks."""
    from brushjax.inference.engine.edit import Graphs
    from brushjax.inference.engine.program import EditProgram

    graphs, params = build(options, xl)
    return EditProgram(Graphs(**graphs), params), graphs, params


def edit(options):
    """Whole edits by `EditProgram`, and through `Inpainter` with the host's part."""
    from brushjax.diffusion.samplers import make_sampler

    program, graphs, params = make_program(options)
    steps = side(options)[1]
    sampler = make_sampler("ddim", SCHEDULER, steps)
    inputs = {batch: make_inputs(options, batch, steps) for batch in options.batches}

    def compiled(batch):
        start = time.perf_counter()
        tuned_edit(program, sampler, inputs[batch])(lower=True)
        return time.perf_counter() - start

    with (
        ThreadPoolExecutor() as threads
    ):  # programs compile side by side, and then lie in the cache
        compiling = dict(zip(inputs, threads.map(compiled, inputs)))
    first = {}
    for batch, given in inputs.items():
        first[batch] = compiling[batch] + seconds(lambda given=given: program(sampler, given), 1)[0]
    yield {"first": first}

    for batch, given in inputs.items():
        walls = seconds(lambda given=given: program(sampler, given), options.rounds)
        figures = {"first": first[batch], "peak": peak_of_jax()}
        yield row(f"edit b{batch}", "brushjax", "ms", [1e3 * wall for wall in walls], **figures)
    yield from through_inpainter(options, graphs, params)
    if "edit" in options.profile:
        for batch, given in inputs.items():
            run = tuned_edit(program, sampler, given)
            run()
            yield {"profile": f"edit b{batch}", "kernels": profiled(run, options, f"edit b{batch}")}


def tuned_edit(program, sampler, given):
    """A function that runs, or only compiles, the edit that `program` would run."""
    import jax

    from brushjax.inference.engine.edit import edit as plain
    from brushjax.inference.engine.options import EditOptions
    from brushjax.inference.engine.program import padded_inputs, tuned

    arguments = (program._graphs, program._params, sampler.padded(), padded_inputs(given, sampler))

    def run(lower=False):
        how = {"options": EditOptions(), "mesh": None}
        if lower:
            tuned(plain, None).lower(*arguments, **how).compile()
        else:
            jax.block_until_ready(tuned(plain, None)(*arguments, **how))

    return run


def through_inpainter(options, graphs, params):
    """The same from a picture to a picture, as a user calls it; nothing compiles anew."""
    from flax import nnx

    from brushjax.inference.inpaint import Inpainter

    steps = side(options)[1]
    parts = {name: nnx.merge(graph, params[name]) for name, graph in graphs.items()}
    painter = Inpainter.from_parts(**parts, scheduler=SCHEDULER)
    for batch in options.batches:
        given = drawn(options, batch)
        pictures, masks = list(given.picture), list(255 * given.mask[..., 0])
        text = {"context": given.positive, "negative_context": given.negative}

        def run(pictures=pictures, masks=masks, text=text):
            how = {"steps": steps, "guidance": GUIDANCE, "scheduler": "ddim"}
            return painter(pictures, masks, **text, **how)

        first = seconds(run, 1)[0]
        walls = seconds(run, options.rounds)
        yield row(
            f"edit b{batch} with host", "brushjax", "ms", [1e3 * w for w in walls], first=first
        )


def peak_of_jax():
    """Bytes at the fullest moment so far."""
    import jax

    figures = jax.devices()[0].memory_stats()
    return figures["peak_bytes_in_use"] if figures else 0


def edit_torch(options, batch):
    """The reference pipeline's edit: eager with channels_last, then with torch.compile."""
    import torch
    from diffusers import AutoencoderKL

    device = "cuda" if torch.cuda.is_available() else "cpu"
    steps = side(options)[1]
    predict, given = torch_prediction(options, batch, device)
    vae = torch_module(AutoencoderKL, vae_settings(options, torch=True), device, torch.bfloat16)
    forms = {"eager": predict}
    if not options.tiny:
        whole = {"dynamic": False, "fullgraph": True}
        forms["torch.compile"] = torch.compile(predict, **whole)
        if options.torch_graphs:
            forms["torch.compile, CUDA graphs"] = torch.compile(
                predict, mode="reduce-overhead", **whole
            )
    edits = {
        name: lambda form=form: whole_edit_torch(form, vae, given, steps)
        for name, form in forms.items()
    }
    first = {}
    for name, run in edits.items():
        first[name] = seconds(run, 1)[0]
    if device == "cuda":
        torch.cuda.empty_cache()  # others measure before this
    yield {"first": first}
    for name, run in edits.items():
        walls = seconds(run, options.rounds, budget=6)
        peak = torch.cuda.max_memory_allocated() if device == "cuda" else 0
        yield row(
            f"edit b{batch}", name, "ms", [1e3 * w for w in walls], first=first[name], peak=peak
        )


def edit_torch_1(options):
    """A batch of 1."""
    return edit_torch(options, 1)


def edit_torch_8(options):
    """A batch of 8."""
    return edit_torch(options, options.batches[-1])


def torch_prediction(options, batch, device, xl=False):
    """Branch and UNet of the reference on both halves of guidance, and the inputs of an edit."""
    import torch
    from diffusers import UNet2DConditionModel

    from tests.torch_reference import TorchBranch, injected

    settings, plain = settings_of(options, xl)
    unet = torch_module(UNet2DConditionModel, settings, device, torch.bfloat16)
    branch = torch_module(TorchBranch, plain, device, torch.bfloat16)
    arrays = drawn(options, batch, xl)
    tensor = lambda x: torch.from_numpy(np.ascontiguousarray(x)).to(device)  # noqa: E731
    given = SimpleNamespace(
        noise=tensor(arrays.noise).contiguous(memory_format=torch.channels_last),
        pixels=tensor(arrays.picture.transpose(0, 3, 1, 2)),
        keep=tensor(1 - arrays.mask[:, ::8, ::8, 0])[:, None].bfloat16(),
        context=tensor(np.concatenate([arrays.negative, arrays.positive])).bfloat16(),
        masked=tensor(arrays.masked).bfloat16(),
    )
    added = None
    if xl:
        added = (
            torch.zeros((2 * batch, POOLED[options.tiny]), device=device).bfloat16(),
            torch.tensor([[1024.0, 1024, 0, 0, 1024, 1024]] * (2 * batch), device=device),
        )

    def predict(sample, timestep, context, condition):
        residuals = branch(sample, timestep, condition, added=added)
        return injected(unet, sample, timestep, context, residuals, added)

    predict.networks = (unet, branch)
    return predict, given


def whole_edit_torch(predict, vae, given, steps):
    """From the masked picture to the new one, by diffusers' DDIM."""
    import torch

    with torch.inference_mode():
        pixels = given.pixels.bfloat16() / 127.5 - 1
        masked = vae.encode(pixels).latent_dist.mode() * 0.18215
        latents = loop_torch(predict, masked, given, steps)
        pictures = vae.decode((latents / 0.18215).bfloat16()).sample
        return ((pictures / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8).cpu()


def loop_torch(predict, masked, given, steps):
    """Guided DDIM steps of the reference; its timesteps stay on the device."""
    import torch
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler.from_config(SCHEDULER)
    scheduler.set_timesteps(steps)
    condition = torch.cat([torch.cat([masked, given.keep], dim=1)] * 2)
    latents, times = given.noise, scheduler.timesteps.to(given.noise.device)
    for timestep, time_here in zip(scheduler.timesteps, times):
        twice = torch.cat([latents] * 2).bfloat16()
        if hasattr(torch.compiler, "cudagraph_mark_step_begin"):
            torch.compiler.cudagraph_mark_step_begin()
        out = predict(twice, time_here.expand(len(twice)), given.context, condition)
        negative, positive = out.float().chunk(2)
        guided = negative + GUIDANCE * (positive - negative)
        latents = scheduler.step(guided, timestep, latents).prev_sample
    return latents


def sdxl(options):
    """A step of an SDXL edit: the difference of a long and a short run of one program."""
    from brushjax.diffusion.samplers import make_sampler

    program, _, _ = make_program(options, xl=True)
    inputs = {n: make_inputs(options, 1, n, xl=True) for n in (SHORT, LONG)}
    samplers = {n: make_sampler("ddim", SCHEDULER, n) for n in inputs}
    start = time.perf_counter()
    program(samplers[SHORT], inputs[SHORT])
    first = time.perf_counter() - start
    yield {"first": first}
    walls = {
        n: seconds(lambda n=n: program(samplers[n], inputs[n]), options.rounds) for n in inputs
    }
    each = [1e3 * (b - a) / (LONG - SHORT) for a, b in zip(walls[SHORT], walls[LONG])]
    yield row("SDXL step b1", "brushjax", "ms", each, first=first, peak=peak_of_jax())


def sdxl_torch(options):
    """The same in PyTorch: eager, then with its repeated blocks compiled."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    predict, given = torch_prediction(options, 1, device, xl=True)
    masked = given.masked

    @torch.inference_mode()
    def run(steps):
        loop_torch(predict, masked, given, steps).cpu()

    run(2)
    yield {}

    def measured(name):
        walls = {n: seconds(lambda n=n: run(n), options.rounds, 5) for n in (SHORT, LONG)}
        each = [1e3 * (b - a) / (LONG - SHORT) for a, b in zip(walls[SHORT], walls[LONG])]
        return row("SDXL step b1", name, "ms", each)

    yield measured("eager")
    if not options.tiny:
        for network in predict.networks:
            for module in network.modules():
                if type(module).__name__ in ("BasicTransformerBlock", "ResnetBlock2D"):
                    module.compile(dynamic=False)
        run(2)
        yield measured("torch.compile of blocks")


def start(options):
    """Seconds to the first edit of a process whose compiled program lies in the cache."""
    begun = time.perf_counter()
    import jax  # noqa: F401

    from brushjax.diffusion.samplers import make_sampler

    program, _, _ = make_program(options)
    built = time.perf_counter()
    steps = side(options)[1]
    yield {}
    before = time.perf_counter()
    program(make_sampler("ddim", SCHEDULER, steps), make_inputs(options, 1, steps))
    first = time.perf_counter() - before
    yield row("first edit, warm cache", "brushjax", "s", [first], build=built - begun)
