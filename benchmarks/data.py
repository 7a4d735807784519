"""Speed of the data pipeline: cached latents, JPEGs, and what a training step waits for.

    python benchmarks/data.py latents  [--records 4096] [--seconds 10]    # 0.5 GB of disk
    python benchmarks/data.py pictures [--samples 200]
    python benchmarks/data.py step     [--steps 40] [--rounds 5]

`latents`: samples a second of SD 1.5 size (64 x 64 x 4, float16) out of the system's file cache, by
threads and processes; the clock starts when more has been read than any buffer holds.
`pictures`: 512 px from JPEGs of 512 x 512 and 1024 x 768, samples per CPU second of one thread,
with the reference's preparation and with the default one.
`step`: the quickstart's step with its loader / with one batch again and again, by turns; a ratio is
the median over rounds of neighbours in time. Also with the photographs prepared in every step.
"""

import argparse
import dataclasses
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from brushjax.data.schema import Captioned

BATCH = 32
LATENT = (64, 64, 4)


def tokenize(captions):
    """Stands in for a tokenizer, whose cost is a tenth of a millisecond a caption."""
    return np.zeros((len(captions), 77), np.int32)


def write_cache(folder: Path, count: int) -> None:
    """Writes random latents as precompute would."""
    from brushjax.data.latents.cache import Cache, fields, record_type
    from brushjax.data.sources import records

    image, hole = fields(LATENT, 77)
    cache = Cache(image, hole, 1, 1, count, -(-count // 4), "", "", "")
    cache.save(folder)
    rng = np.random.default_rng(0)
    for shard in range(cache.shards):
        for path, layout in zip(cache.paths(folder, shard), (image, hole)):
            rows = np.zeros(
                min(cache.per_shard, count - shard * cache.per_shard), record_type(layout)
            )
            for name in rows.dtype.names:
                if rows[name].dtype == np.float16:
                    rows[name] = rng.standard_normal(rows[name].shape, np.float32)
            with records.writing(path) as add:
                for row in rows:
                    add(row.tobytes())


def latents(options) -> None:
    from brushjax.data.cached import CachedLatents

    with tempfile.TemporaryDirectory() as folder:
        write_cache(Path(folder), options.records)
        for workers, threads in ((0, 1), (0, 2), (0, 4), (1, 1), (2, 1), (2, 2)):
            data = CachedLatents(folder, workers=workers, threads=threads)
            feed = iter(data.batches(BATCH, Captioned(tokenize), shard=(0, 1)))
            buffered = 2 * (data.ahead + 1) * max(1, workers) + threads
            for _ in range(buffered):
                next(feed)
            wall, cpu, taken = time.perf_counter(), time.process_time(), 0
            while time.perf_counter() - wall < options.seconds:
                batch = next(feed)
                taken += len(batch["id"])
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            feed.close()
            report = {
                "workers": workers,
                "threads": threads,
                "samples_per_second": round((taken - buffered * BATCH) / wall),
                "cpu_ms_per_sample_of_this_process": round(1000 * cpu / taken, 3),
            }
            print(json.dumps(report), flush=True)


def photograph(height: int, width: int, seed: int) -> np.ndarray:
    """Noise with a photograph's spectrum: its JPEG has a photograph's size."""
    rng = np.random.default_rng(seed)
    y, x = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    falling = 1 / np.maximum(np.hypot(y, x), 1 / max(height, width))
    planes = []
    for _ in range(3):
        noise = np.fft.rfft2(rng.standard_normal((height, width))) * falling
        plane = np.fft.irfft2(noise, (height, width))
        planes.append(plane / plane.std() * 50 + 128)
    return np.clip(np.stack(planes, axis=-1), 0, 255).astype(np.uint8)


def write_tar(path: Path, height: int, width: int, count: int) -> None:
    """Writes a few different pictures, each with two objects, again and again."""
    import io
    import tarfile

    from brushjax.data.masks import rle

    y, x = np.mgrid[:height, :width]
    discs = [np.hypot(y - height / 2, x - width * k) < height / 4 for k in (0.3, 0.6)]
    runs = [rle.encode(disc, first=1, order="column") for disc in discs]
    with tarfile.open(path, "w") as tar:
        for n in range(count):
            picture = photograph(height, width, n)
            jpeg = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes()
            members = {
                "image": jpeg,
                "caption": b"a photograph",
                "height": str(height).encode(),
                "width": str(width).encode(),
                "segmentation": json.dumps({"mask": runs}).encode(),
            }
            for name, data in members.items():
                info = tarfile.TarInfo(f"{n:04d}.{name}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


def pictures(options) -> None:
    from brushjax.data.sets.brushdata import BrushData

    cv2.setNumThreads(1)
    for height, width in ((512, 512), (768, 1024)):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "0.tar"
            write_tar(path, height, width, 8)
            for profile in ("reference_segmentation", "reference_random", "default"):
                data = BrushData(folder, 512, profile=profile, index_cache=folder)
                samples = data.source(Captioned(tokenize))
                samples.sample(0, 0)
                cpu = time.process_time()
                for n in range(options.samples):
                    samples.sample(n % 8, n)
                cpu = time.process_time() - cpu
                report = {
                    "source": f"{width} x {height}, {path.stat().st_size // 8000} kB a sample",
                    "profile": profile,
                    "samples_per_cpu_second": round(options.samples / cpu, 1),
                }
                print(json.dumps(report), flush=True)


class NoCheckpoints:
    """What a run starts from."""

    def latest(self):
        return None


def step(options) -> None:
    from brushjax import config as configs

    recipe = configs.load(Path(__file__).parents[1] / "configs" / "quickstart.py")
    data = dataclasses.replace(recipe.data, pool=options.pool)
    for encode_once in (True, False):
        config = dataclasses.replace(recipe, encode_once=encode_once, data=data)
        rounds = step_rounds(config, options.steps, options.rounds)
        report = {
            "samples": "encoded once" if encode_once else "prepared in every step",
            "loader_ms": round(1000 * statistics.median(real for real, _ in rounds), 1),
            "synthetic_ms": round(1000 * statistics.median(fake for _, fake in rounds), 1),
            "ratio": round(statistics.median(real / fake for real, fake in rounds), 3),
        }
        print(json.dumps(report), flush=True)


def step_rounds(config, steps: int, rounds: int) -> list[tuple[float, float]]:
    """Seconds a step with the loader, and with one batch again and again, by turns."""
    import jax

    from brushjax.training.batches import to_devices
    from brushjax.training.loop import open_feed, restore_or_init
    from brushjax.training.plan import make_plan
    from brushjax.training.step import step_of

    plan = make_plan(config)
    state, frozen, _ = restore_or_init(config, plan, NoCheckpoints())
    feed, _ = open_feed(config, plan.mesh, frozen, config.objective.encode, None, 0)
    train_step, same = step_of(config, plan), next(feed)

    def timed(next_batch, count: int) -> float:
        nonlocal state
        start = time.perf_counter()
        for _ in range(count):
            state, metrics = train_step(state, frozen, to_devices(next_batch(), plan.mesh))
        jax.block_until_ready(metrics)
        return (time.perf_counter() - start) / count

    timed(lambda: same, 3)  # compiles
    return [(timed(lambda: next(feed), steps), timed(lambda: same, steps)) for _ in range(rounds)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("latents", "pictures", "step"))
    parser.add_argument("--records", type=int, default=4096)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pool", type=int, default=512, help="different samples, at most 1536")
    options = parser.parse_args()
    print(json.dumps({"cores": os.cpu_count(), "load": os.getloadavg()[0]}), flush=True)
    {"latents": latents, "pictures": pictures, "step": step}[options.what](options)


if __name__ == "__main__":
    main()
