"""Published config.json files: read, refused with a reason, written back."""

import json

import pytest

from brushjax.models import BrushNetConfig, CLIPTextConfig, UNetConfig, VAEConfig
from tests.support import GOLDEN

KINDS = {
    "unet": UNetConfig,
    "brushnet": BrushNetConfig,
    "vae": VAEConfig,
    "text_encoder": CLIPTextConfig,
}
FILES = sorted(path for path in GOLDEN.glob("*/*/config.json") if path.parent.name in KINDS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: "-".join(path.parts[-3:-1]))
def test_published_config_round_trip(path):
    published, kind = json.loads(path.read_text()), KINDS[path.parent.name]
    written = kind.from_dict(published).to_dict()
    assert {key: written[key] for key in published} == published
    # What the file leaves out is written with the value that the class implements.
    assert set(written) - set(published) <= set(kind.FIXED)
    assert kind.from_dict(written).to_dict() == written


@pytest.mark.parametrize(
    "config",
    [
        UNetConfig.sd15(),
        UNetConfig.sd2(in_channels=9),
        UNetConfig.sdxl(),
        BrushNetConfig.sd15(),
        BrushNetConfig.sdxl(),
        BrushNetConfig(injection="half", conditioning_encoder="conv", conditioning_channels=4),
        VAEConfig.sdxl(),
        CLIPTextConfig.sd2(),
        CLIPTextConfig.sdxl_2(),
    ],
    ids=lambda config: type(config).__name__,
)
def test_config_survives_its_file(config):
    written = config.to_dict()
    again = type(config).from_dict(json.loads(json.dumps(written)))
    assert again.to_dict() == written
    assert hash(again) == hash(type(config).from_dict(written))
    fields = set(config.__dataclass_fields__) - {"extra"}
    assert all(getattr(again, field) == getattr(config, field) for field in fields)


def test_released_branch_config_is_written_without_our_own_fields():
    assert not {"injection", "conditioning_encoder"} & set(BrushNetConfig.sd15().to_dict())
    assert BrushNetConfig(injection="half").to_dict()["injection"] == "half"


@pytest.mark.parametrize("kind", KINDS.values())
def test_config_names_every_unimplemented_setting(kind):
    fixed = sorted(kind.FIXED)[0]
    with pytest.raises(ValueError, match="can't honour") as refusal:
        kind.from_dict({fixed: "another", "mystery": 3, "riddle": [1, 2], "_name_or_path": "x"})
    message = str(refusal.value)
    assert f"{fixed}: expected" in message
    assert "mystery: unknown setting, got 3" in message
    assert "riddle: unknown setting, got (1, 2)" in message
    assert "_name_or_path" not in message


def test_config_refuses_block_lists_of_another_length():
    with pytest.raises(ValueError, match="expected 3 down and up block types"):
        UNetConfig(block_out_channels=(8, 8, 8))
    with pytest.raises(ValueError, match=r"one value per block \(4\), got \(5, 10\)"):
        _ = UNetConfig(attention_head_dim=(5, 10)).heads
    with pytest.raises(ValueError, match="addition_embed_type None or 'text_time', got 'image'"):
        UNetConfig(addition_embed_type="image")
    with pytest.raises(ValueError, match="hidden_act quick_gelu or gelu, got 'relu'"):
        CLIPTextConfig(hidden_act="relu")
