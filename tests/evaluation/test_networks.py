"""The networks behind the metrics, at tiny width: loading, batching, errors."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

import brushjax
import convert_weights
from brushjax.data.text import train_tokenizer
from brushjax.evaluation import networks as module
from brushjax.evaluation.networks import Networks, hash_of
from brushjax.evaluation.sets import folder_distances
from brushjax.metrics.metric import Need, image, text
from brushjax.metrics.preprocess import PREPROCESS
from brushjax.metrics.registry import needs_of, score, select
from brushjax.metrics.views import RESULT, SOURCE, Views
from brushjax.models.encoders.clip import CLIPText, CLIPTextConfig
from brushjax.models.encoders.vit import DINO, CLIPVision, PlainViTConfig, ViTConfig
from brushjax.models.scoring.image_reward import (
    AestheticConfig,
    AestheticHead,
    ImageReward,
    ImageRewardConfig,
)
from brushjax.models.scoring.lpips import LPIPS, LPIPSConfig

RNG = np.random.default_rng(0)


def make(kind, config):
    return nnx.jit(lambda: kind(config, rngs=nnx.Rngs(0)))()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny CLIP, DINO and aesthetic head as files, the CLIP with a tokenizer."""
    folder = tmp_path_factory.mktemp("networks")
    train_tokenizer(["a cat", "a dog", "the cat sees a dog"], folder / "clip", 520)
    vision = make(CLIPVision, ViTConfig(16, 24, 2, 4, projection_dim=8))
    words = make(
        CLIPText,
        CLIPTextConfig(
            vocab_size=520,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=1,
            num_attention_heads=2,
            projection_dim=8,
            architectures=("CLIPTextModelWithProjection",),
            eos_token_id=2,  # the highest id is the end's
        ),
    )
    brushjax.save(vision, folder / "vision")
    brushjax.save(words, folder / "text")
    _join(folder)
    brushjax.save(make(DINO, PlainViTConfig(16, 24, 2, 4, 32, 8)), folder / "dino")
    brushjax.save(make(AestheticHead, AestheticConfig(8)), folder / "aesthetic")
    return folder


def _join(folder):
    """Writes both halves as the one file of a published CLIP."""
    from safetensors.numpy import load_file, save_file

    halves = [load_file(folder / half / "model.safetensors") for half in ("vision", "text")]
    save_file(halves[0] | halves[1], folder / "clip" / "model.safetensors")
    configs = [
        json.loads((folder / half / "config.json").read_text()) for half in ("vision", "text")
    ]
    vision, words = ({k: v for k, v in c.items() if k != "_class_name"} for c in configs)
    config = {"architectures": ["CLIPModel"], "vision_config": vision, "text_config": words}
    (folder / "clip" / "config.json").write_text(json.dumps(config | {"projection_dim": 8}))


@pytest.fixture
def tiny(monkeypatch):
    """Lets tiny networks pass for the published ones."""
    monkeypatch.setattr(module, "EXPECTED", {})


def samples(count, side=40):
    return [
        Views(
            RNG.integers(0, 256, (side, side + 2 * (i % 2), 3), np.uint8),
            source=RNG.integers(0, 256, (side, side + 2 * (i % 2), 3), np.uint8),
            caption=["a cat", "the dog"][i % 2],
        )
        for i in range(count)
    ]


def test_features_do_not_depend_on_company_order_or_number(folder, tiny):
    networks = Networks.load({"clip_b32": folder / "clip"}, batch=4)
    needs = [
        image("clip_b32.image", "openai", RESULT),
        image("clip_b32.image", "ip2p", SOURCE),
        text("clip_b32.text"),
    ]
    many = samples(7)
    together = networks.features(needs, many)
    for at in (0, 3, 6):
        (alone,) = networks.features(needs, [many[at]])
        for need in needs:
            np.testing.assert_allclose(alone[need], together[at][need], atol=1e-6)
    backwards = networks.features(needs, many[::-1])[::-1]
    for one, other in zip(together, backwards, strict=True):
        for need in needs:
            np.testing.assert_allclose(one[need], other[need], atol=1e-6)
    assert networks.seconds.preprocess > 0
    assert 0 <= networks.seconds.waiting <= 1


def test_features_are_the_networks_own(folder, tiny):
    networks = Networks.load({"clip_b32": folder / "clip"})
    vision, (sample,) = brushjax.load("clip_vision", folder / "clip"), samples(1)
    need = image("clip_b32.image", "openai", RESULT)
    (found,) = networks.features([need], [sample])
    pixels = PREPROCESS["openai"](sample.result)[None]
    np.testing.assert_allclose(found[need], vision(jnp.asarray(pixels)).embeds[0], atol=1e-5)


def test_pictures_of_several_sizes_are_batched_by_size():
    networks = Networks({"lpips_squeeze": {"lpips": make(LPIPS, LPIPSConfig("squeeze"))}}, batch=2)
    need, many = Need("lpips_squeeze.map", "lpips", (RESULT, SOURCE)), samples(3)
    many.append(Views(many[0].result, source=many[0].result))
    found = [row[need] for row in networks.features([need], many)]
    assert [distances.shape for distances in found] == [v.result.shape[:2] for v in many]
    assert all(distances.mean() > 0 for distances in found[:3])
    assert (found[3] == 0).all()


def test_clean_and_paper_metrics_run_on_networks(folder, tiny):
    paths = dict.fromkeys(("clip_b32", "clip_l14", "hps_v21"), folder / "clip")
    paths |= dict.fromkeys(("dino_s16", "dino_b8"), folder / "dino")
    networks = Networks.load(paths | {"aesthetic": folder / "aesthetic"}, batch=2)
    metrics = select(["clean", "paper:ultraedit"], networks=networks.names)
    metrics = [m for m in metrics if set(m.inputs) <= {"source", "caption"}]
    many = samples(2)
    rows = networks.features(needs_of(metrics), many)
    values = score(metrics, many[0], rows[0])
    assert "clean/aesthetic[aesthetic/openai]@1" in values
    assert len(values) == len(metrics)
    assert all(np.isfinite(value) for value in values.values())
    same = Views(many[0].result, source=many[0].result, caption="a cat")
    copied = score(metrics, same, networks.features(needs_of(metrics), [same])[0])
    assert copied["clean/dino[dino_s16/dino]@1"] == pytest.approx(1)
    assert copied["clean/structure_distance[dino_b8/splice-unit]@1"] == 0


def test_image_reward_reads_prompts_with_berts_tokenizer(tmp_path):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat", "dog", "the"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    tokens = module._tokens("bert", tmp_path)
    ids, there = tokens("A cat")
    assert ids.tolist() == [2, 5, 6, 3] + [0] * 31
    assert there.tolist() == [True] * 4 + [False] * 31
    assert len(tokens("a cat " * 40)[0]) == 35

    config = ImageRewardConfig(16, 24, 1, 2, 9, 40, 1e-12, 12, 16, 1, 2, 32, 16, (4, 4, 4, 4, 1))
    networks = Networks(
        {"image_reward": {"image_reward": make(ImageReward, config)}},
        {"image_reward": tokens},
        batch=2,
    )
    # The tiny network takes 224 pixels too: its positions are resized.
    need = Need("image_reward.score", "openai", (RESULT, "caption"))
    rows = networks.features([need], samples(3))
    assert [row[need].shape for row in rows] == [()] * 3
    with pytest.raises(FileNotFoundError, match=r"vocab\.txt"):
        module._tokens("bert", tmp_path / "nothing")


def test_wrong_networks_are_refused_before_anything_is_scored(folder):
    with pytest.raises(ValueError, match="unknown networks"):
        Networks.load({"clip_b16": folder / "clip"})
    with pytest.raises(brushjax.weights.WeightsError, match="is no clip_b32"):
        Networks.load({"clip_b32": folder / "clip"})
    with pytest.raises(brushjax.weights.WeightsError, match="expected"):
        Networks.load({"dino_s16": folder / "clip"})
    with pytest.raises(brushjax.weights.WeightsError, match="no file or folder"):
        Networks.load({"dino_s16": folder / "nothing at all"})
    with pytest.raises(ValueError, match="give that too"):
        Networks({"aesthetic": {}})


def test_clip_of_the_hubs_layout_becomes_ours_with_its_tokenizer(folder, tiny, tmp_path):
    ours = tmp_path / "clip_b32"
    assert convert_weights.main(["to-jax", "clip", str(folder / "clip"), str(ours)]) == 0
    assert sorted(path.name for path in ours.iterdir()) == [
        "clip_vision",
        "text_encoder",
        "tokenizer",
    ]
    assert convert_weights.main(["check", "clip", str(folder / "clip"), str(ours)]) == 0
    needs = [image("clip_b32.image", "openai", RESULT), text("clip_b32.text")]
    many = samples(2)
    found = [
        Networks.load({"clip_b32": path}, batch=2).features(needs, many)
        for path in (folder / "clip", ours)
    ]
    for one, other in zip(*found, strict=True):
        for need in needs:
            np.testing.assert_array_equal(one[need], other[need])
    before = hash_of(ours)
    chunk = max((ours / "clip_vision").rglob("d/*"), key=lambda path: path.stat().st_size)
    chunk.write_bytes(chunk.read_bytes()[:-1] + b"x")
    assert hash_of(ours) != before  # an Orbax checkpoint's files have no endings


def test_missing_weights_say_how_to_make_them(tmp_path):
    with pytest.raises(brushjax.weights.WeightsError, match=r"to-jax lpips alexnet-owt.*\.pth"):
        Networks.load({"lpips_alex": tmp_path / "lpips_alex"})


def test_missing_network_output_and_tokenizer_are_named(folder, tiny):
    networks = Networks({"dino_s16": {}, "clip_b32": {}})
    for need, message in (
        (image("clip_l14.image", "openai", RESULT), "clip_l14"),
        (image("dino_s16.image", "dino", RESULT), "gives class, keys"),
        (text("clip_b32.text"), "clip_b32.tokenizer"),
    ):
        with pytest.raises((KeyError, ValueError), match=message):
            networks.features([need], samples(1))


def test_hashes_follow_the_weights(folder, tmp_path):
    file = folder / "dino" / "model.safetensors"
    before = hash_of(file)
    copy = tmp_path / "other.safetensors"
    copy.write_bytes(file.read_bytes())
    assert hash_of(copy) == before
    copy.write_bytes(file.read_bytes()[:-1] + b"\x00\x01")
    assert hash_of(copy) != before
    assert hash_of(folder / "dino") not in (before, hash_of(folder / "clip"))


def test_hashes_follow_the_vocabulary(tmp_path):
    words = tmp_path / "merges.txt"
    words.write_text("a b")
    before = hash_of(tmp_path)
    words.write_text("b a")
    assert hash_of(tmp_path) != before


def test_folders_are_compared_as_sets(folder, tiny, tmp_path):
    networks = Networks.load({"clip_l14": folder / "clip"}, batch=2)
    for name, count in (("a", 5), ("b", 4)):
        (tmp_path / name).mkdir()
        for i, sample in enumerate(samples(count)):
            Image.fromarray(sample.result).save(tmp_path / name / f"{i}.png")
    found = folder_distances(networks, tmp_path / "a", tmp_path / "b")
    assert set(found) == {"clean/frechet[clip_l14/openai]@1", "clean/kernel[clip_l14/openai]@1"}
    assert all(np.isfinite(value) for value in found.values())
    same = folder_distances(networks, tmp_path / "a", tmp_path / "a")
    assert same["clean/frechet[clip_l14/openai]@1"] == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match="found none"):
        folder_distances(networks, tmp_path / "a", folder / "dino")
