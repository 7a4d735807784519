"""Latents encoded beforehand: what precompute writes, and what training reads."""

import dataclasses
import itertools
import json
import shutil

import jax
import numpy as np
import pytest

from brushjax import weights
from brushjax.config import ConfigError
from brushjax.data.cached import CachedImages, CachedLatents
from brushjax.data.latents.cache import Cache
from brushjax.data.masks.holes import HoleConfig
from brushjax.data.sets.brushdata import BrushData
from brushjax.training import precompute as precomputing
from brushjax.training.lifecycle.starting import check_encoder
from brushjax.training.objectives.brushnet import BrushNetObjective
from brushjax.training.optimizers import OptimizerConfig
from brushjax.training.precompute import Encoder, PrecomputeConfig, precompute
from brushjax.training.recipe import TrainConfig
from tests.data import tiny

SIZE = 32
SETTINGS = PrecomputeConfig(crops=2, holes=2, per_shard=4, batch_size=1, threads=2)
BROKEN = 6  # number of a sample whose picture does not decode


def config_of(folder):
    data = BrushData(
        path=str(folder / "tars"), size=SIZE, faulty_share=0.5, index_cache=str(folder / "index")
    )
    return TrainConfig(
        name="cached",
        objective=BrushNetObjective(),
        data=data,
        optimizer=OptimizerConfig(learning_rate=1e-4),
        steps=1,
        batch_size=8,
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(config, cache folder, faults) of eleven samples, one of which is broken."""
    folder = tmp_path_factory.mktemp("cached")
    (folder / "tars").mkdir()
    samples = {f"{n:02d}": tiny.members(n) for n in range(11)}
    samples[f"{BROKEN:02d}"] = tiny.members(BROKEN, image=b"no picture")
    tiny.write_tar(folder / "tars" / "0.tar", samples)
    config = config_of(folder)
    return config, folder / "out", precompute(config, folder / "out", SETTINGS)


@pytest.fixture(scope="module")
def encoder(made):
    return Encoder(made[0], SETTINGS)


def take(feed, count):
    return list(itertools.islice(iter(feed), count))


def encode_not(record):
    raise AssertionError(f"{record} was encoded though all of it is stored")


def stored(out, epochs=4, batch_size=5):
    """All samples of some epochs, in batches: {(id, epoch): sample}."""
    data, found = CachedLatents(str(out)), {}
    for place, batch in enumerate(
        take(data.batches(batch_size, encode_not, shard=(0, 1)), epochs * 10 // batch_size)
    ):
        for row in range(batch_size):
            epoch = (place * batch_size + row) // 10
            found[int(batch["id"][row]), epoch] = {name: a[row] for name, a in batch.items()}
    return found


def test_every_whole_sample_is_stored_once_an_epoch(made):
    _, out, faults = made
    assert faults == {"broken image": 1}
    assert len(stored(out)) == 40
    assert {n for n, _ in stored(out)} == set(range(11)) - {BROKEN}


def test_stored_latents_are_those_of_the_crops_and_holes(made, encoder):
    config, out, _ = made
    samples = config.data.source(config.objective.encode)
    found = stored(out)
    matched = set()
    for number in (0, 3, 10):
        for crop, hole in itertools.product(range(2), range(2)):
            (sample,), _ = samples.sample(number, crop, [hole])
            batch = {name: sample[name][None] for name in ("image", "mask", "time_ids")}
            batch["token_ids"] = samples.encoded([sample])["token_ids"]
            prepared = encoder(batch)
            near = [
                epoch
                for epoch in range(4)
                if all(
                    np.allclose(found[number, epoch][name], prepared[name][0], rtol=1e-3, atol=1e-3)
                    for name in ("mean", "deviation", "condition", "masked_deviation")
                )
            ]
            assert near, (number, crop, hole)
            assert set(prepared) | {"id"} == set(found[number, 0])
            ours = found[number, near[0]]
            np.testing.assert_array_equal(
                ours["condition"][..., -1], prepared["condition"][0, ..., -1]
            )
            np.testing.assert_array_equal(ours["token_ids"], prepared["token_ids"][0])
            np.testing.assert_array_equal(ours["time_ids"], prepared["time_ids"][0])
            matched |= {(number, epoch) for epoch in near}
    assert matched == {(n, epoch) for n in (0, 3, 10) for epoch in range(4)}  # each variant came


def test_only_missing_shards_are_made_again_to_the_same_bytes(made, monkeypatch):
    config, out, faults = made
    path = Cache.load(out).paths(out, 1)[0]
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    path.unlink()
    (out / f"{path.name}.77.new").write_bytes(b"what a killed run left")
    with pytest.raises(FileNotFoundError, match="1 of 3 shards"):
        CachedLatents(str(out), seed=5).source(encode_not)
    written = []
    inner = precomputing._write_shard
    monkeypatch.setattr(precomputing, "_write_shard", lambda *a: written.append(a[2]) or inner(*a))
    assert precompute(config, out, SETTINGS) == faults
    assert written == [1]
    (out / f"{path.name}.77.new").unlink()
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before


def test_a_stopped_run_leaves_no_half_shard_and_hosts_share_the_work(made, tmp_path, monkeypatch):
    config, out, _ = made
    calls = []

    def stopping(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return inner(*arguments)

    inner = precomputing._encode
    monkeypatch.setattr(precomputing, "_encode", stopping)
    with pytest.raises(KeyboardInterrupt):
        precompute(config, tmp_path, dataclasses.replace(SETTINGS, batch_size=1))
    assert {file.name for file in tmp_path.glob("image-*")} <= {"image-00000-of-00003.array_record"}
    assert not list(tmp_path.glob("*.new"))
    monkeypatch.setattr(precomputing, "_encode", inner)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    for host in (1, 0):
        monkeypatch.setattr(jax, "process_index", lambda host=host: host)
        precompute(config, tmp_path, SETTINGS)
    theirs = {file.name: file.read_bytes() for file in out.iterdir()}
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == theirs


def test_another_cache_in_the_folder_is_refused(made):
    config, out, _ = made
    other = dataclasses.replace(config, data=dataclasses.replace(config.data, seed=1))
    with pytest.raises(ConfigError, match=r"data.seed: 0 -> 1"):
        precompute(other, out, SETTINGS)
    with pytest.raises(ConfigError, match=r"crops: 2 -> 1"):
        precompute(config, out, dataclasses.replace(SETTINGS, crops=1))
    workers = dataclasses.replace(config, data=dataclasses.replace(config.data, workers=1))
    assert precompute(workers, out, SETTINGS)


def test_cached_images_bring_new_holes_in_stored_crops(made):
    config, out, _ = made
    data = CachedImages(str(out), config.data)
    encode = config.objective.encode
    found = stored(out)
    masks = {}
    for place, batch in enumerate(take(data.batches(5, encode, shard=(0, 1)), 8)):
        assert set(batch) == {
            *("mean", "deviation", "image", "mask", "token_ids", "time_ids", "id")
        }
        for row, number in enumerate(batch["id"].tolist()):
            epoch = (place * 5 + row) // 10
            np.testing.assert_array_equal(batch["mean"][row], found[number, epoch]["mean"])
            corner = found[number, epoch]["time_ids"]
            image = config.data.source(encode).sample(number, crop_of(corner, config, number))
            np.testing.assert_array_equal(batch["image"][row], image[0][0]["image"])
            masks.setdefault(number, set()).add(batch["mask"][row].tobytes())
    assert np.mean([len(found) for found in masks.values()]) > 3
    assert data.source(encode).faults == {}


def crop_of(time_ids, config, number):
    """Which crop of a sample lies where these sizes say."""
    samples = config.data.source(config.objective.encode)
    places = [samples.sample(number, crop)[0][0]["time_ids"].tolist() for crop in range(2)]
    return places.index(time_ids.tolist())


def test_cached_images_of_other_data_are_refused(made):
    config, out, _ = made
    holes = dataclasses.replace(config.data, holes=HoleConfig.of_strokes())
    CachedImages(str(out), holes).source(config.objective.encode)
    other = dataclasses.replace(config.data, size=64)
    with pytest.raises(ConfigError, match=r"size: 32 -> 64"):
        CachedImages(str(out), other).source(config.objective.encode)


def test_cached_latents_state_and_hosts(made):
    _, out, _ = made
    data = CachedLatents(str(out), seed=3)
    whole = take(data.batches(4, encode_not, shard=(0, 1)), 5)
    halves = [take(data.batches(2, encode_not, shard=(h, 2)), 5) for h in (0, 1)]
    for batch, first, second in zip(whole, *halves):
        np.testing.assert_array_equal(batch["id"], [*first["id"], *second["id"]])
    feed = iter(data.batches(4, encode_not, shard=(0, 1)))
    next(feed)
    state = json.loads(json.dumps(feed.get_state()))
    again = iter(data.batches(4, encode_not, shard=(0, 1)))
    again.set_state(state)
    np.testing.assert_array_equal(next(again)["mean"], whole[1]["mean"])


def test_a_cache_of_images_alone_has_no_latents_of_holes(made, tmp_path):
    config, _, _ = made
    settings = dataclasses.replace(SETTINGS, crops=1, holes=0)
    precompute(config, tmp_path, settings)
    with pytest.raises(ConfigError, match="without holes"):
        CachedLatents(str(tmp_path)).source(encode_not)
    encode = config.objective.encode
    feed = CachedImages(str(tmp_path), config.data).batches(10, encode, shard=(0, 1))
    assert set(take(feed, 1)[0]["id"].tolist()) == set(range(11)) - {BROKEN}


def test_a_collection_takes_its_latents_by_a_setting(made):
    config, out, _ = made
    encode = config.objective.encode
    named = dataclasses.replace(config.data, latents=str(out))
    new = dataclasses.replace(named, new_holes=True)
    for data, same in (
        (named, CachedLatents(str(out))),
        (new, CachedImages(str(out), config.data)),
    ):
        ours, theirs = (take(d.batches(5, encode, shard=(0, 1)), 1)[0] for d in (data, same))
        assert ours.keys() == theirs.keys()
        for name in theirs:
            np.testing.assert_array_equal(ours[name], theirs[name])
    moved = dataclasses.replace(named, path="elsewhere", workers=3)
    moved.source(encode)
    other = dataclasses.replace(named, holes=HoleConfig.of_strokes())
    with pytest.raises(ConfigError, match=r"holes.random: 0.4 -> 1.0"):
        other.source(encode)
    with pytest.raises(ValueError, match="expected latents"):
        dataclasses.replace(config.data, new_holes=True)


def test_shapes_are_those_of_the_samples(made):
    config, out, _ = made
    encode = config.objective.encode
    kinds = {"latents": str(out)}, {"latents": str(out), "new_holes": True}, {}
    for settings in (*kinds, {"profile": "reference_random"}):
        data = dataclasses.replace(config.data, **settings)
        sample = data.source(encode)[0]
        stated = {name: (np.shape(a), np.dtype(a.dtype)) for name, a in data.shapes().items()}
        assert stated == {name: (np.shape(a), np.dtype(a.dtype)) for name, a in sample.items()}


def test_folders_without_a_cache_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="brushjax precompute CONFIG"):
        CachedLatents(str(tmp_path)).source(encode_not)


def test_only_collections_are_precomputed(made, tmp_path):
    config, _, _ = made
    for data in (CachedLatents(), dataclasses.replace(config.data, pool=4)):
        with pytest.raises(ConfigError, match="expected data"):
            precompute(dataclasses.replace(config, data=data), tmp_path, SETTINGS)
    reference = dataclasses.replace(config.data, profile="reference_random")
    with pytest.raises(ConfigError, match="holes 1"):
        precompute(dataclasses.replace(config, data=reference), tmp_path, SETTINGS)


def test_the_command_takes_a_config_file_and_says_what_was_left_out(
    made, tmp_path, monkeypatch, capsys
):
    _, out, _ = made
    monkeypatch.setattr(precomputing.distributed, "initialize", lambda: None)
    recipe = tmp_path / "recipe.py"
    recipe.write_text(
        "from tests.data.test_cached import config_of\n"
        "from pathlib import Path\n"
        f"get_config = lambda: config_of(Path({str(out.parent)!r}))\n"
    )
    counts = ["--crops", "2", "--holes", "2", "--per-shard", "4"]
    precomputing.main([str(recipe), "--out", str(out), *counts])
    assert "broken image: 1" in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"data.size: 32 -> 64"):
        precomputing.main([str(recipe), "--out", str(out), *counts, "--data.size", "64"])
    with pytest.raises(SystemExit, match="expected data"):
        precomputing.main(["configs/quickstart.py", "--out", str(tmp_path / "no")])
    with pytest.raises(SystemExit):
        precomputing.main([str(recipe), "--out", str(out), "--crops", "0"])
    assert "expected crops >= 1; got 0" in capsys.readouterr().err


def test_latents_of_other_files_are_refused_by_name(made, tmp_path):
    """A copy is the same; a tar with an edited caption of the same length is not."""
    config, out, _ = made
    encode = config.objective.encode
    tar = tmp_path / "0.tar"
    tar.write_bytes((out.parent / "tars" / "0.tar").read_bytes())
    copied = dataclasses.replace(config.data, path=str(tmp_path), latents=str(out))
    copied.source(encode)
    tar.write_bytes(tar.read_bytes().replace(b"picture 3", b"picture X"))
    for new_holes in (False, True):
        edited = dataclasses.replace(copied, new_holes=new_holes, seed=config.data.seed)
        with pytest.raises(ConfigError, match=r"other files; since then\n  0.tar: other content"):
            edited.source(encode)
    moved = dataclasses.replace(config, data=dataclasses.replace(config.data, path=str(tmp_path)))
    with pytest.raises(ConfigError, match=r"0.tar: other content"):
        precompute(moved, out, SETTINGS)


def test_latents_of_another_autoencoder_are_refused(made, tmp_path):
    config, out, _ = made
    other = shutil.copytree(config.objective.folder, tmp_path / "base")
    vae = weights.load("vae", other)
    vae.quant_conv.bias.set_value(vae.quant_conv.bias[...] + 1)
    weights.save(vae, other / "vae")
    changed = dataclasses.replace(config.objective, base=str(other))
    data = dataclasses.replace(config.data, latents=str(out))
    for where in ({"data": data}, {"validation": data}, {"data": CachedLatents(str(out))}):
        check_encoder(dataclasses.replace(config, **where))
        with pytest.raises(ConfigError, match=r"another autoencoder .* anew with .* precompute"):
            check_encoder(dataclasses.replace(config, objective=changed, **where))
    check_encoder(dataclasses.replace(config, objective=changed))
