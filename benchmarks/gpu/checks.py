"""Ceilings of the device, and whether it computes what a CPU does in float64."""

import numpy as np

from benchmarks.gpu.weights import row, seconds
from tests.random_weights import Weights

NARROW = {
    "block_out_channels": (32, 64, 64, 64),
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "cross_attention_dim": 32,
    "attention_head_dim": 2,
}
VAE = {"block_out_channels": (16, 32), "layers_per_block": 1, "norm_num_groups": 4}
ATTENTION = {  # queries, keys, features of a head, causal
    "4096 x 4096 x 40": (4096, 4096, 40),
    "1024 x 1024 x 80": (1024, 1024, 80),
    "256 x 256 x 160": (256, 256, 160),
    "4096 x 77 x 40": (4096, 77, 40),
    "1024 x 77 x 64": (1024, 77, 64),
}
TOGETHER = 8  # runs that are started before the last is waited for
BOUNDS = {"float32": 1e-4, "float32, default": 2e-2, "bfloat16": 0.2}  # in standard deviations


def check(options):
    """Ceilings first; then the errors of networks, kernels and noise, one program after the other:
    XLA ends a process in which one thread records a CUDA graph while another waits."""
    import jax

    jax.devices()
    names, cases = ("unet", "brushnet", "vae"), tuple(ATTENTION)
    if options.tiny:
        names, cases = names[:1], cases[:1]
    yield {}
    yield from ceilings(options)
    for case in cases:
        yield from attention_errors(case, options)
    yield from noise_errors()
    for name in names:
        yield from network_errors(name)
    if not options.tiny:
        yield from attention_errors("256 x 256 x 160", options, "cudnn")


def ceilings(options):
    """TFLOP/s of large bfloat16 products, TB/s of reading and writing a large array."""
    import jax
    import jax.numpy as jnp

    side, length = (256, 2**20) if options.tiny else (8192, 2**30)
    x = jax.random.normal(jax.random.key(0), (side, side), jnp.bfloat16)
    y, product, copy = (
        jnp.zeros(length, jnp.bfloat16),
        jax.jit(jnp.matmul),
        jax.jit(lambda y: y + 1),
    )
    for case, unit, run, work in (
        ("bf16 product", "TFLOP/s", lambda: product(x, x), 2e-12 * side**3),
        ("device copy", "TB/s", lambda: copy(y), 4e-12 * length),
    ):
        times = seconds(lambda run=run: [run() for _ in range(TOGETHER)][-1].block_until_ready(), 5)
        yield row(case, "ceiling", unit, [TOGETHER * work / min(times[1:] or times)])


def network_errors(name):
    """Largest error of a narrow network's output in each precision, against float64 on the CPU."""
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from brushjax.models import AutoencoderKL, BrushNet, BrushNetConfig, UNet, UNetConfig, VAEConfig
    from brushjax.nn import Keys
    from tests.support import fill, torch_names

    random = np.random.default_rng(0)
    sample, condition = (random.standard_normal((2, 16, 16, c), np.float32) for c in (4, 5))
    context, time = random.standard_normal((2, 7, 32), np.float32), np.array([3, 970])
    picture = random.standard_normal((2, 32, 32, 3), np.float32)
    kind, config, given = {
        "unet": (UNet, UNetConfig(**NARROW), (sample, time, context)),
        "brushnet": (BrushNet, BrushNetConfig(**NARROW), (sample, time, condition)),
        "vae": (AutoencoderKL, VAEConfig(**VAE), (picture,)),
    }[name]
    names = torch_names(nnx.eval_shape(lambda: kind(config, rngs=Keys(0))))
    weights = Weights(name, {key: shape for key, (_, shape) in names.items()})
    graph, params = nnx.split(fill(kind, config, weights))
    params = jax.tree.map(np.asarray, nnx.to_pure_dict(params))

    def forward(params, *given):
        model = nnx.merge(graph, params)
        if name == "vae":
            return [model.decode(model.encode(*given).mode())]
        return jax.tree.leaves(model(*given))

    def run(device, dtype, precision):
        floats = lambda x: x.astype(dtype) if x.dtype == np.float32 else x  # noqa: E731
        arrays = jax.device_put(jax.tree.map(floats, (params, *given)), device)
        with jax.default_matmul_precision(precision):
            outputs = jax.jit(forward)(*arrays)
        return [np.asarray(x, np.float64) for x in outputs]

    with jax.enable_x64(True):
        exact = run(jax.devices("cpu")[0], np.float64, "highest")
    forms = {
        "float32": (np.float32, "highest"),
        "float32, default": (np.float32, "default"),
        "bfloat16": (jnp.bfloat16, "default"),
    }
    return [
        judged(f"{name}, {form}", run(jax.devices()[0], *how), exact, BOUNDS[form])
        for form, how in forms.items()
    ]


def judged(case, ours, exact, bound):
    """A row of the largest error in standard deviations, and whether it is within its bound."""
    error = max(float(np.abs(a - b).max() / b.std()) for a, b in zip(ours, exact, strict=True))
    return row(case, "brushjax", "error", [error], bound=bound, passed=bool(error <= bound))


def attention_errors(case, options, implementation="auto"):
    """Values and gradients of attention in bfloat16, against float32's."""
    import jax
    import jax.numpy as jnp

    from brushjax.nn.attention import attention

    queries, keys, width = ATTENTION[case]
    if options.tiny:
        queries, keys = queries // 32, min(keys, 128)
    random = np.random.default_rng(0)
    shapes = ((2, queries, 2, width), (2, keys, 2, width), (2, keys, 2, width))
    operands = [jnp.asarray(random.standard_normal(s, np.float32), jnp.bfloat16) for s in shapes]
    towards = jnp.asarray(random.standard_normal(shapes[0], np.float32))

    def run(operands, implementation):
        def value(operands):
            out = attention(*operands, implementation=implementation)
            return (out * towards).sum().astype(jnp.float32), out

        (_, out), gradients = jax.value_and_grad(value, has_aux=True)(operands)
        return [out, *gradients]

    picked = jax.jit(lambda x: run(x, implementation))
    kernel = "cudnn" if "cudnn" in picked.lower(operands).as_text() else "no kernel"
    ours = [np.asarray(x, np.float64) for x in picked(operands)]
    wide = [x.astype(jnp.float32) for x in operands]
    with jax.default_matmul_precision("highest"):
        exact = [np.asarray(x, np.float64) for x in jax.jit(lambda x: run(x, "plain"))(wide)]
    return [judged(f"attention {case} ({kernel})", ours, exact, 0.1)]


def noise_errors():
    """A sample's noise alone, in a batch and on the CPU."""
    import jax

    from brushjax.inference.engine.edit import seeded_noise

    shape, seeds = (8, 8, 4), np.arange(5, dtype=np.uint32)
    batch = np.asarray(seeded_noise(seeds, shape))
    alone = np.concatenate([seeded_noise(seeds[i : i + 1], shape) for i in range(5)])
    with jax.default_device(jax.devices("cpu")[0]):
        there = np.asarray(seeded_noise(seeds, shape))
    yield judged("noise, alone and in a batch", [alone], [batch], 0.0)
    yield judged("noise, here and on the CPU", [batch], [there], 1e-5)
