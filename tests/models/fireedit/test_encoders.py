"""The two encoders of pictures that FireEdit reads, at full size."""

from brushjax.models.encoders.vit import PlainViTConfig, ViTConfig
from tests.models.fireedit.golden import count, full_size


def test_full_size_encoders_have_the_published_counts():
    dino = full_size("dino", PlainViTConfig.dinov2_l14().to_dict())
    assert count(dino) + 1024 == 304_368_640  # the published class counts its mask token too
    clip = ViTConfig.clip_l14().to_dict() | {"projection_dim": 0}
    assert count(full_size("clip_vision", clip)) == 303_179_776
