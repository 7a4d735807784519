"""MagicBrush's protocol, stated again in PyTorch, on pictures in the naming of its script."""

import json

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from torch.nn.functional import cosine_similarity

import brushjax
from brushjax.evaluation.benchmarks.magicbrush import MagicBrush
from brushjax.evaluation.networks import Networks
from brushjax.evaluation.results import Shown
from brushjax.evaluation.sweep import Run, Sweep
from tests.evaluation import miniatures
from tests.torch_reference import randomize

pytestmark = pytest.mark.torch
WIDTH = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 16}
WIDTH |= {"intermediate_size": 24}
WORDS = {"vocab_size": 60, "max_position_embeddings": 77, "bos_token_id": 58, "eos_token_id": 59}
METRICS = ("l1", "l2", "clip_i", "dino", "clip_t")


def token_ids(text):
    """Stands in for a tokenizer."""
    ids = [58, *(ord(letter) % 57 for letter in text[:75]), 59]
    return np.array(ids + [59] * (77 - len(ids)), np.int32)


@pytest.fixture(scope="module")
def references(tmp_path_factory):
    """Small CLIP and DINO of PyTorch, with their shapes of pictures, and the same loaded here."""
    folder = tmp_path_factory.mktemp("networks")
    vision = {**WIDTH, "image_size": 224, "patch_size": 32}
    clip = randomize(
        transformers.CLIPModel(
            transformers.CLIPConfig(
                text_config={**WIDTH, **WORDS}, vision_config=vision, projection_dim=12
            )
        )
    ).float()
    dino = randomize(
        transformers.ViTModel(
            transformers.ViTConfig(**{**WIDTH, "image_size": 224, "patch_size": 16})
        )
    ).float()
    clip.save_pretrained(folder / "clip")
    dino.save_pretrained(folder / "dino")
    models = {
        "clip_b32": {
            kind: brushjax.load(kind, folder / "clip") for kind in ("clip_vision", "clip_text")
        },
        "dino_s16": {"dino": brushjax.load("dino", folder / "dino")},
    }
    tokens = {"clip_b32": lambda text: (token_ids(text),)}
    networks = Networks(models, tokens, dict.fromkeys(models, "0"))
    return clip, dino, networks


def prepared(path, resize, mean, std):
    """Resize the shorter side, cut 224 x 224 out of the middle, scale, normalise."""
    picture = Image.open(path).convert("RGB")
    width, height = picture.size
    short = min(width, height)
    size = (int(resize * width / short), int(resize * height / short))
    picture = picture.resize(size, Image.Resampling.BICUBIC)
    left, top = round((size[0] - 224) / 2), round((size[1] - 224) / 2)
    picture = picture.crop((left, top, left + 224, top + 224))
    pixels = torch.tensor(np.asarray(picture)).permute(2, 0, 1)[None].float() / 255
    return (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


CLIP = (224, (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
DINO = (256, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@torch.no_grad()
def of_pair(clip, dino, result, truth, caption):
    """The five numbers of one pair."""
    right = Image.open(truth).convert("RGB")
    mine = Image.open(result).convert("RGB").resize(right.size)
    difference = torch.tensor(np.asarray(mine) / 255) - torch.tensor(np.asarray(right) / 255)
    images = [
        clip.visual_projection(clip.vision_model(prepared(p, *CLIP)).pooler_output)
        for p in (result, truth)
    ]
    ids = torch.tensor(token_ids(caption))[None].long()
    words = clip.text_projection(clip.text_model(ids).pooler_output)
    classes = [dino(prepared(p, *DINO)).last_hidden_state[:, 0] for p in (result, truth)]
    return {
        "l1": difference.abs().mean().item(),
        "l2": difference.square().mean().item(),
        "clip_i": cosine_similarity(*images).item(),
        "dino": cosine_similarity(*classes).item(),
        "clip_t": cosine_similarity(images[0], words).item(),
    }


def restated(data, theirs, networks, protocol):
    """All turns from their true sources, or the last turn of every session."""
    sessions = json.loads((data / "edit_sessions.json").read_text())
    captions = json.loads((data / "local_descriptions.json").read_text())
    pairs = []
    for key, turns in sessions.items():
        for number, turn in enumerate(turns, start=1):
            kind = {"single": "inde", "multi": "iter"}[protocol]
            name = f"{key}_1" if number == 1 else f"{key}_{kind}_{number}"
            if protocol == "single" or number == len(turns):
                truth, caption = (
                    data / "images" / key / turn["output"],
                    captions[key][turn["output"]],
                )
                pairs.append((theirs / key / f"{name}.png", truth, caption))
    values = [of_pair(*networks, *pair) for pair in pairs]
    return {name: np.mean([one[name] for one in values]) for name in METRICS}, len(pairs)


@pytest.mark.parametrize(("protocol", "count"), [("single", 6), ("multi", 3)])
def test_scores_equal_a_restatement_in_pytorch(references, tmp_path, protocol, count):
    data = miniatures.magicbrush(tmp_path / "data", turns=(3, 1, 2), height=120, width=100)
    theirs, seed = tmp_path / "theirs", 0
    for key, turns in {"100": 3, "101": 1, "102": 2}.items():
        for k in range(1, turns + 1):
            for name in [f"{key}_1"] if k == 1 else [f"{key}_inde_{k}", f"{key}_iter_{k}"]:
                seed += (
                    1  # of another size than the truth, as the script's own inference makes them
                )
                miniatures.save(theirs / key / f"{name}.png", miniatures.picture(seed, 128, 64))
    clip, dino, networks = references
    sweep = Sweep((MagicBrush(str(data), protocol),), (), shown=Shown(0, 0))
    run = Run(sweep.for_given([str(theirs)]), tmp_path / "out", networks=networks, progress=False)
    report = run.all()
    expected, pairs = restated(data, theirs, (clip, dino), protocol)
    assert pairs == count
    found = {one.metric.name: one.mean for one in report.means if "magicbrush" in one.metric.id}
    assert {one.count for one in found.values()} == {count}
    for name in METRICS:
        assert found[name].value == pytest.approx(expected[name], abs=1e-5), name
