"""Segmenters: given masks and predictors, and the real classes of transformers at tiny width."""

import sys

import numpy as np
import pytest

from brushjax.agents.segmenters import (
    Click,
    GivenMask,
    GroundedSAM,
    PredictedRegion,
    segmenter,
    without_overlaps,
)

PICTURE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "?", "dog", "red", "cat", "a"]


def test_given_mask_is_one_instance_with_its_box():
    mask = np.zeros((48, 64), np.uint8)
    mask[10:20, 5:9] = 200
    found = GivenMask(mask)(PICTURE, "whatever")
    assert found.boxes == [(5, 10, 9, 20)]
    assert found.mask().sum() == 40 * 255
    with pytest.raises(ValueError, match="expected a mask of"):
        GivenMask(mask)(PICTURE[:8], "whatever")


def test_predicted_region_is_what_reaches_the_threshold():
    grid = np.array([[0.9, 0.1], [0.1, 0.1]], np.float32)
    found = PredictedRegion(lambda image, phrase: grid, 0.6)(PICTURE, "the dog")
    assert found.masks[0, 0, 0] == 255
    assert not found.masks[0, :, 40:].any()
    assert not len(PredictedRegion(lambda image, phrase: grid, 0.95)(PICTURE, "x").masks)


def test_overlapping_boxes_are_one_thing():
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [20, 20, 30, 30]], np.float32)
    assert without_overlaps(boxes, np.array([0.5, 0.9, 0.4])) == [1, 2]


def test_segmenters_have_names():
    with pytest.raises(ValueError, match="expected a segmenter of given, grounded-sam"):
        segmenter("dino")


@pytest.mark.torch
def test_grounded_sam_that_is_not_there_says_so_in_one_line(tmp_path):
    with pytest.raises(OSError, match=f"at {tmp_path}, a folder or a hub id") as caught:
        GroundedSAM(tmp_path, tmp_path)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def sam(tmp_path_factory):
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("sam")
    config = transformers.SamConfig(
        vision_config={
            "hidden_size": 16,
            "output_channels": 8,
            "num_hidden_layers": 1,
            "image_size": 64,
            "num_attention_heads": 2,
            "patch_size": 16,
            "num_pos_feats": 4,
            "mlp_dim": 16,
            "global_attn_indexes": [0],
        },
        prompt_encoder_config={
            "hidden_size": 8,
            "image_size": 64,
            "patch_size": 16,
            "mask_input_channels": 4,
        },
        mask_decoder_config={
            "hidden_size": 8,
            "mlp_dim": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "iou_head_hidden_dim": 8,
        },
    )
    transformers.SamModel(config).save_pretrained(folder)
    reader = transformers.SamImageProcessorPil(
        size={"longest_edge": 64}, pad_size={"height": 64, "width": 64}
    )
    transformers.SamProcessor(reader).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("detector")
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    config = transformers.GroundingDinoConfig(
        backbone_config=transformers.SwinConfig(
            embed_dim=8,
            depths=[1, 1, 1, 1],
            num_heads=[1, 1, 1, 1],
            window_size=4,
            out_features=["stage2", "stage3", "stage4"],
        ),
        text_config={
            "model_type": "bert",
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 16,
            "vocab_size": len(WORDS),
        },
        d_model=32,
        encoder_layers=1,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        num_queries=6,
        max_text_len=16,
        num_feature_levels=4,
    )
    transformers.GroundingDinoForObjectDetection(config).save_pretrained(folder)
    reader = transformers.GroundingDinoImageProcessorPil(
        size={"shortest_edge": 64, "longest_edge": 96}
    )
    words = transformers.BertTokenizer(str(folder / "vocab.txt"))
    transformers.GroundingDinoProcessor(reader, words).save_pretrained(folder)
    return folder


@pytest.mark.torch
def test_click_gives_a_mask_of_the_pictures_size(sam):
    found = Click([(20, 30)], sam=sam)(PICTURE, "")
    assert found.masks.shape[1:] == PICTURE.shape[:2]


@pytest.mark.torch
def test_grounded_sam_gives_every_box_its_mask_in_pictures_of_any_size(detector, sam):
    finder = GroundedSAM(detector, sam, thresholds=(0.3, 0.0))
    pictures = [PICTURE, PICTURE[:40, :40]]
    for picture, found in zip(pictures, finder.batch(pictures, ["A red dog.", "cat"])):
        assert len(found.masks) == len(found.boxes) == len(found.scores) > 0
        assert found.masks.shape[1:] == picture.shape[:2]
        assert list(found.scores) == sorted(found.scores, reverse=True)
    assert len(GroundedSAM(detector, sam, thresholds=(1.0,))(PICTURE, "dog").masks) == 0


def test_absent_pytorch_is_said_in_one_line_without_transformers(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setattr("brushjax.agents.segmenters.transformers_class", None)
    with pytest.raises(ImportError, match=r"expected torch for this; .*install -e '\.\[torch\]'"):
        GroundedSAM()
