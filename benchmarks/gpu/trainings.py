"""Training steps: SD 1.5's branch from cached latents, here and in PyTorch, and FireEdit's."""

import dataclasses
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

from benchmarks.gpu.edits import peak_of_jax
from benchmarks.gpu.profiles import profiled, save_text
from benchmarks.gpu.weights import filled, row, seconds
from benchmarks.pod_sizes import BASES, recipe

ROOT = Path(__file__).resolve().parents[2]
SPARE = 8 * 2**30  # bytes of the device that are left to parts that wait


def train(options):
    """Steps on cached latents, of every batch that fits."""
    base, size = ("", 64) if options.tiny else BASES["sd15"]
    configs = {batch: recipe(base, size, batch) for batch in options.train_batches}
    with ThreadPoolExecutor() as threads:
        programs = dict(zip(configs, threads.map(compiled, configs.values())))
    yield {"first": {batch: one.seconds for batch, one in programs.items()}}
    yield from measured(options, "train", programs)


def compiled(config):
    """Compiles a recipe's step without its arrays; says what it holds and what work it asks for."""
    import jax

    from brushjax.training.plan import make_plan
    from brushjax.training.scale.ahead import step_shapes
    from brushjax.training.scale.flops import useful_flops
    from brushjax.training.step import step_of

    start = time.perf_counter()
    plan = make_plan(config, jax.devices()[:1])
    shapes = step_shapes(config, plan)
    program = step_of(config, plan).lower(*shapes).compile()
    seconds = time.perf_counter() - start
    memory = program.memory_analysis()
    held = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    return SimpleNamespace(
        config=config,
        shapes=shapes,
        program=program,
        seconds=seconds,
        held=held,
        useful=useful_flops(config),
    )


def measured(options, name, programs):
    """Runs the steps of every batch; the state goes from one to the next."""
    state = frozen = None
    for batch, one in programs.items():
        case, first = f"{name} b{batch}", {"first": one.seconds, "predicted": one.held}
        if one.held > memory_of_jax() - SPARE:
            yield {"case": case, "side": "brushjax", "failed": "does not fit"} | first
            continue
        if state is None:
            state, frozen = initial(one)
        loop = Loop(one.program, state, frozen, filled(one.shapes[2]))
        seconds(loop.step, 2)
        walls = seconds(loop.step, options.rounds, budget=8)
        loss = float(loop.metrics["loss"])
        figures = {"peak": peak_of_jax(), "useful": one.useful, "loss": loss}
        yield row(case, "brushjax", "ms", [1e3 * wall for wall in walls], **figures | first)
        if "train" in options.profile and batch == options.profiled_batch:
            yield {"profile": case, "kernels": profiled(loop.step, options, case)}
            save_text(options, case, one.program)
        state = loop.state


def initial(one):
    """State and frozen weights of a program; the moments are those of a run that starts."""
    import jax
    import jax.numpy as jnp

    shapes, frozen = one.shapes[:2]
    zeros = lambda leaf: jnp.zeros(leaf.shape, leaf.dtype, device=leaf.sharding)  # noqa: E731
    state = jax.tree.map(zeros, {**shapes, "params": {}})
    return state | {"params": filled(shapes["params"])}, filled(frozen)


class Loop:
    """Steps of a program on one batch."""

    def __init__(self, program, state, frozen, batch):
        self.program, self.state, self.frozen, self.batch = program, state, frozen, batch
        self.metrics = {}

    def step(self):
        """Runs one, and waits for it."""
        import jax

        self.state, self.metrics = self.program(self.state, self.frozen, self.batch)
        jax.block_until_ready(self.metrics)


def memory_of_jax():
    """Bytes that the device has."""
    import jax

    figures = jax.devices()[0].memory_stats()
    return figures["bytes_limit"] if figures else 2**63


def train_torch(options):
    """PyTorch's step: torch.compile with channels_last, the branch under autocast."""
    import torch

    from benchmarks.train_sides import torch_step

    steps = {}

    def prepare(batch):
        how = SimpleNamespace(tiny=options.tiny, batch=batch, latents=8 if options.tiny else 64)
        step, peak, _ = torch_step(how)
        steps[batch] = step, peak
        return seconds(step, 1)[0]

    batches = options.torch_train_batches
    first = prepare(batches[0])
    yield {"first": first}
    for batch in batches:
        try:
            if batch not in steps:
                first = prepare(batch)
            step, peak = steps.pop(batch)
            seconds(step, 1)
            walls = seconds(step, options.rounds, budget=8)
            yield row(
                f"train b{batch}",
                "torch.compile",
                "ms",
                [1e3 * wall for wall in walls],
                peak=peak(),
                first=first,
            )
        except torch.cuda.OutOfMemoryError:
            yield {"case": f"train b{batch}", "side": "torch.compile", "failed": "out of memory"}
        step = peak = None
        torch._dynamo.reset()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def fireedit(options):
    """FireEdit's second stage with all its parts, on one device, layers computed again."""
    from brushjax import config as configs

    config = configs.load(ROOT / "configs/fireedit/stage2.py")
    config = dataclasses.replace(config, batch_size=options.fireedit_batch, nonfinite="stop")
    one = compiled(config)
    yield {"first": one.seconds}
    yield from measured(options, "FireEdit", {options.fireedit_batch: one})
