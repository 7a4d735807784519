"""Samples per second of the networks that score pictures."""

from benchmarks.gpu.weights import row

CHOSEN = ("clip_l14", "dinov2_s14", "lpips_squeeze", "lpips_vgg", "image_reward", "hps_v21")
TINY = ("dino_s16",)


def score(options):
    """Each network in float32 on batches of 32: the program alone, and with the host's part."""
    import jax
    import numpy as np
    from flax import nnx

    from benchmarks import score_networks as one
    from benchmarks.gpu.weights import filled
    from brushjax.evaluation.networks import Networks
    from brushjax.metrics.views import Views

    batch, side, budget = (2, 32, 0.01) if options.tiny else (32, 512, 1.0)
    random = np.random.default_rng(0)
    pictures = [
        Views(
            *(random.integers(0, 256, (side, side, 3), np.uint8) for _ in range(2)),
            caption="a photo",
        )
        for _ in range(2 * batch)
    ]
    yield {}
    for name in TINY if options.tiny else CHOSEN:
        models = one.abstract(one.BUILD[name])
        for model in models.values():
            graph_state = nnx.state(model)
            shapes = jax.tree.map(
                lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype),
                nnx.to_pure_dict(graph_state),
            )
            nnx.update(model, filled(shapes))
        length = one.TEXT_LENGTH if name == "image_reward" else 77
        networks = Networks({name: models}, {name: one.fake_tokens(length)}, batch=batch)
        for need in one.needs_of(name):
            inputs = networks._prepare(need, pictures[0])
            rows = [np.broadcast_to(x, (batch, *x.shape)) for x in inputs]
            counted = one.flops(name, need, models, rows)
            alone, both, waiting = one.speed(networks, need, pictures, budget)
            figures = {"useful": counted, "with_host": both, "waiting": waiting}
            yield row(f"score {need.feature}", "brushjax", "samples/s", [alone], **figures)
