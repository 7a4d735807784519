"""What scoring costs: parameters, counted FLOPs and samples per second of each metric network.

    python -m benchmarks.score_networks [--networks clip_b32 lpips_squeeze] [--count-only]
        [--batch 8] [--seconds 10] [--side 512]

On a machine where libtpu is installed and no TPU is, set JAX_PLATFORMS=cpu.

Full-size networks with random weights, one after the other. FLOPs are what XLA counts for the
program of a batch, divided by its rows (a multiply-add is two). Two speeds are measured:
of the compiled program alone, on a batch that is prepared already, and of pictures through
`Networks.features`, with Pillow's preprocessing in threads beside it; the last column is the share
of that time in which the device had to wait for prepared pictures.
"""

import argparse
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from brushjax.evaluation.networks import NETWORKS, Networks
from brushjax.metrics.metric import Need
from brushjax.metrics.views import RESULT, SOURCE, Views
from brushjax.models.encoders.clip import CLIPText, CLIPTextConfig
from brushjax.models.encoders.vit import DINO, CLIPVision, PlainViTConfig, ViTConfig
from brushjax.models.scoring.image_reward import (
    TEXT_LENGTH,
    AestheticConfig,
    AestheticHead,
    ImageReward,
    ImageRewardConfig,
)
from brushjax.models.scoring.lpips import LPIPS, LPIPSConfig
from brushjax.nn import Keys

PROJECTED = ("CLIPTextModelWithProjection",)
CLIP_L = CLIPTextConfig(architectures=PROJECTED)
CLIP_B = CLIPTextConfig(
    hidden_size=512,
    intermediate_size=2048,
    num_attention_heads=8,
    projection_dim=512,
    architectures=PROJECTED,
)
CLIP_H = CLIPTextConfig(
    hidden_size=1024,
    intermediate_size=4096,
    num_hidden_layers=24,
    num_attention_heads=16,
    hidden_act="gelu",
    projection_dim=1024,
    architectures=PROJECTED,
)


def clip(vision, words):
    return {"clip_vision": (CLIPVision, vision), "clip_text": (CLIPText, words)}


BUILD = {
    "clip_b32": clip(ViTConfig.clip_b32(), CLIP_B),
    "clip_l14": clip(ViTConfig.clip_l14(), CLIP_L),
    "hps_v21": clip(ViTConfig.clip_h14(), CLIP_H),
    "dino_s16": {"dino": (DINO, PlainViTConfig.dino_s16())},
    "dino_b8": {"dino": (DINO, PlainViTConfig.dino_b8())},
    "dinov2_s14": {"dino": (DINO, PlainViTConfig.dinov2_s14())},
    **{f"lpips_{net}": {"lpips": (LPIPS, LPIPSConfig(net))} for net in ("alex", "squeeze", "vgg")},
    "image_reward": {"image_reward": (ImageReward, ImageRewardConfig())},
    "aesthetic": {
        "aesthetic": (AestheticHead, AestheticConfig()),
        "clip_vision": (CLIPVision, ViTConfig.clip_l14()),
    },
}
PREPROCESS = {"hps_v21": "hps", "dino_s16": "dino", "dinov2_s14": "dino", "dino_b8": "splice"}


def needs_of(name):
    """One need per output of a network; of LPIPS's two, the score."""
    for output in NETWORKS[name].outputs:
        preprocess = "lpips" if name.startswith("lpips") else PREPROCESS.get(name, "openai")
        if output == "text":
            yield Need(f"{name}.text", "tokens", ("caption",))
        elif name == "image_reward":
            yield Need("image_reward.score", preprocess, (RESULT, "caption"))
        elif name.startswith("lpips"):
            if output == "score":
                yield Need(f"{name}.score", preprocess, (RESULT, SOURCE))
        else:
            yield Need(f"{name}.{output}", preprocess, (RESULT,))


def fake_tokens(length):
    """Ids that stand for a tokenizer's: what scoring costs does not depend on the words."""
    ids = np.arange(1, length + 1, dtype=np.int32)
    if length == TEXT_LENGTH:
        return lambda text: (ids, np.ones(length, bool))
    return lambda text: (ids,)


def abstract(parts):
    return {
        kind: nnx.eval_shape(lambda k=k, c=c: k(c, rngs=Keys(0))) for kind, (k, c) in parts.items()
    }


def filled(parts):
    """Models with every parameter drawn by numpy, a tenth of a normal value."""
    rng, models = np.random.default_rng(0), abstract(parts)
    for model in models.values():
        state = nnx.state(model)
        for _, leaf in nnx.to_flat_state(state):
            drawn = rng.standard_normal(leaf.shape, np.float32) / max(leaf.shape[0], 10) ** 0.5
            leaf.set_value(jnp.asarray(drawn))
        nnx.update(model, state)
    return models


def sizes(models):
    leaves = jax.tree.leaves([nnx.state(model, nnx.Param) for model in models.values()])
    return sum(leaf.size for leaf in leaves)


def flops(name, need, models, inputs):
    """XLA's count for one row of a batch."""
    _, _, output = need.feature.partition(".")
    structs = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in inputs]
    graphs = {kind: nnx.split(model) for kind, model in models.items()}

    def forward(states, *inputs):
        built = {kind: nnx.merge(graphs[kind][0], state) for kind, state in states.items()}
        return NETWORKS[name].outputs[output](built, *inputs)

    states = {kind: split[1] for kind, split in graphs.items()}
    cost = jax.jit(forward).lower(states, *structs).cost_analysis()
    return cost["flops"] / inputs[0].shape[0]


def speed(networks, need, pictures, seconds):
    """Samples per second of the compiled program alone, and with the host's part."""
    with_host = Networks(networks._models, networks._tokenizers, batch=networks.batch)
    inputs = [with_host._prepare(need, picture) for picture in pictures[: networks.batch]]
    stacked = tuple(np.stack(column) for column in zip(*inputs))
    forward, models = with_host._forward(need), with_host._models[need.network]
    forward(models, *stacked).block_until_ready()  # compiles
    alone, start = 0, time.perf_counter()
    while alone == 0 or time.perf_counter() - start < seconds:
        forward(models, *stacked).block_until_ready()
        alone += networks.batch
    alone /= time.perf_counter() - start
    both, start = 0, time.perf_counter()
    while both == 0 or time.perf_counter() - start < seconds:
        with_host.features([need], pictures)
        both += len(pictures)
    return alone, both / (time.perf_counter() - start), with_host.seconds.waiting


def main():
    """Prints a table, a row per network and output."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--networks", nargs="+", choices=list(BUILD), default=list(BUILD))
    parser.add_argument("--batch", type=int, default=8, help="rows of a compiled call")
    parser.add_argument(
        "--batches", type=int, default=4, help="batches scored with the host's part"
    )
    parser.add_argument("--seconds", type=float, default=10, help="measured per speed, at least")
    parser.add_argument("--side", type=int, default=512, help="of the pictures")
    parser.add_argument("--count-only", action="store_true", help="count, run nothing")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    shape = (options.side, options.side, 3)
    pictures = [
        Views(*(rng.integers(0, 256, shape, np.uint8) for _ in range(2)), caption="a photo")
        for _ in range(options.batch * options.batches)
    ]
    head = f"{'network':14s} {'output':7s} {'Mparams':>8s} {'GFLOP/sample':>13s}"
    print(head + ("" if options.count_only else "  samples/s alone, with host; waiting"))
    for name in options.networks:
        length = TEXT_LENGTH if name == "image_reward" else 77
        models = abstract(BUILD[name]) if options.count_only else filled(BUILD[name])
        given = {name: models}
        if name == "aesthetic":
            given["clip_l14"] = {"clip_vision": models["clip_vision"]}
        networks = Networks(given, {name: fake_tokens(length)}, batch=options.batch)
        for need in needs_of(name):
            inputs = networks._prepare(need, pictures[0])
            rows = [np.broadcast_to(x, (options.batch, *x.shape)) for x in inputs]
            counted = flops(name, need, models, rows) / 1e9
            output = need.feature.partition(".")[2]
            line = f"{name:14s} {output:7s} {sizes(models) / 1e6:8.2f} {counted:13.3f}"
            if not options.count_only:
                alone, both, waiting = speed(networks, need, pictures, options.seconds)
                line += f"  {alone:8.2f} {both:8.2f} {waiting:7.1%}"
            print(line)
            sys.stdout.flush()


if __name__ == "__main__":
    main()
