"""How far the times of --compile-for are from published ones: SDXL at 1024 pixels, 20 steps.

    python -m benchmarks.published_times v5e
    python -m benchmarks.published_times v6e

Compiles the guided step of the base and its decoder for four chips that are not here, and adds up
twenty steps and a decoding. Minutes of two cores; needs the extra `tpu`.

Published: MLPerf Inference 4.1, closed, Google, offline (tpu_v5e_x4_flax, tpu_v6_x4_flax): 1.753
and 5.439 images/s; "Accelerating Stable Diffusion XL Inference with JAX on Cloud TPU v5e" (2023):
4 images in 2.33 s on four chips. Which batch MLPerf's runs took is not in their logs' summary.
"""

import argparse
import os

STEPS, SIZE, TOKENS = 20, 128, 77
PUBLISHED = {
    "v5e": {"MLPerf 4.1": 1.753 / 4, "Cloud TPU v5e with JAX, 2023": 4 / 2.33 / 4},
    "v6e": {"MLPerf 4.1": 5.439 / 4},
}
BASE = "stabilityai/stable-diffusion-xl-base-1.0"


def main():
    """Prints images/s a chip, published and estimated."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kind", choices=sorted(PUBLISHED), help="generation of the chips")
    parser.add_argument("--per-chip", type=int, default=1, help="images at once on a chip")
    parser.add_argument("--text", help="prefix of files that get the compiled programs")
    options = parser.parse_args()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # nothing runs

    import jax
    import jax.numpy as jnp
    from jax.sharding import NamedSharding, PartitionSpec

    from brushjax.models.unet import UNet
    from brushjax.models.vae import AutoencoderKL
    from brushjax.nn import Execution, executing
    from brushjax.pipelines.published import read_base
    from brushjax.sharding import make_mesh
    from brushjax.training.objectives.contract import blueprint, build, placed_in
    from brushjax.training.scale import ahead
    from brushjax.training.scale.program import operations
    from brushjax.training.scale.roofline import forecast
    from brushjax.typing import AddedCondition

    base, chip = read_base(BASE), ahead.CHIPS[options.kind]
    mesh = make_mesh(devices=ahead.slice_devices(f"{options.kind}-4"))
    whole, rows = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), ("data",)))
    images = 4 * options.per_chip

    def shape(*sides, place=rows):
        return jax.ShapeDtypeStruct(sides, jnp.bfloat16, sharding=place)

    def step(params, latents, times, text, pooled, ids):
        with executing(Execution(mesh=mesh)):
            unet = build(UNet, base.unet, params)
            return unet(latents, times, text, added=AddedCondition(pooled, ids))

    def decode(params, latents):
        with executing(Execution(mesh=mesh)):
            return build(AutoencoderKL, base.vae, params).to_images(latents)

    def seconds(name, function, model, config, *given):
        params = placed_in(whole, blueprint(model, config)[1], jnp.bfloat16)
        traced = jax.jit(function).trace(params, *given)
        with ahead.quick():
            text = traced.lower().compile().as_text()
        if options.text:
            with open(f"{options.text}-{name}.txt", "w") as file:
                file.write(text)
        kernels = sum(one.flops for one in operations(traced.jaxpr) if one.in_kernel) / 4
        best = forecast(text, chip, 4, kernels)
        print(f"{name}: {best.seconds * 1e3:.1f} ms ({best})", flush=True)
        return best

    wide = 2 * images  # guidance: with the prompt and without it
    given = (
        shape(wide, SIZE, SIZE, 4),
        shape(wide),
        shape(wide, TOKENS, base.unet.cross_attention_dim),
        shape(wide, 1280),
        shape(wide, 6),
    )
    one = seconds("step", step, UNet, base.unet, *given)
    last = seconds("decoding", decode, AutoencoderKL, base.vae, shape(images, SIZE, SIZE, 4))
    best = options.per_chip / (STEPS * one.seconds + last.seconds)
    print(f"{options.kind}, {options.per_chip} a chip: {best:.3f} images/s a chip estimated")
    for name, rate in PUBLISHED[options.kind].items():
        print(f"  {name}: {rate:.3f} images/s a chip, {rate / best:.2f} of that")


if __name__ == "__main__":
    main()
