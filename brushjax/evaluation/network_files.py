"""Which published files the metrics' networks are made from, and the commands that do it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

TORCHVISION = "https://download.pytorch.org/models/"
META = "https://dl.fbaipublicfiles.com/"
LAION = "https://github.com/LAION-AI/aesthetic-predictor/raw/main/"


@dataclasses.dataclass(frozen=True)
class Published:
    """A published network.

    Attributes:
        kind: of `convert_weights.py`.
        source: hub id that the command reads itself, or the name of the file that it is given.
        address: where the file is to be had; empty for a hub id.
        megabytes: of the published file.
        licence: as its authors state it.
        needs: other networks whose files it reads too.
        tokenizer: where its tokenizer comes from, if not from the source.
    """

    kind: str
    source: str
    address: str
    megabytes: float | int
    licence: str
    needs: tuple[str, ...] = ()
    tokenizer: str = ""

    def command(self, network: str) -> str:
        """What turns the file into ours, where the configs look for it."""
        return f"python convert_weights.py to-jax {self.kind} {self.source} weights/{network}"


NETWORK_FILES = {
    "clip_l14": Published("clip", "openai/clip-vit-large-patch14", "", 1710, "MIT"),
    "clip_b32": Published("clip", "openai/clip-vit-base-patch32", "", 605, "MIT"),
    "dino_s16": Published(
        "dino",
        "dino_deitsmall16_pretrain.pth",
        f"{META}dino/dino_deitsmall16_pretrain/dino_deitsmall16_pretrain.pth",
        87,
        "Apache-2.0",
    ),
    "dino_b8": Published(
        "dino",
        "dino_vitbase8_pretrain.pth",
        f"{META}dino/dino_vitbase8_pretrain/dino_vitbase8_pretrain.pth",
        343,
        "Apache-2.0",
    ),
    "dinov2_s14": Published(
        "dino",
        "dinov2_vits14_pretrain.pth",
        f"{META}dinov2/dinov2_vits14/dinov2_vits14_pretrain.pth",
        88,
        "Apache-2.0",
    ),
    "lpips_squeeze": Published(
        "lpips",
        "squeezenet1_1-b8a52dc0.pth",
        f"{TORCHVISION}squeezenet1_1-b8a52dc0.pth",
        5,
        "BSD-3-Clause; trained on ImageNet",
    ),
    "lpips_alex": Published(
        "lpips",
        "alexnet-owt-7be5be79.pth",
        f"{TORCHVISION}alexnet-owt-7be5be79.pth",
        244,
        "BSD-3-Clause; trained on ImageNet",
    ),
    "lpips_vgg": Published(
        "lpips",
        "vgg16-397923af.pth",
        f"{TORCHVISION}vgg16-397923af.pth",
        553,
        "BSD-3-Clause; trained on ImageNet",
    ),
    "hps_v21": Published(
        "clip",
        "HPS_v2.1_compressed.pt",
        "https://huggingface.co/xswu/HPSv2",
        1970,
        "Apache-2.0",
        tokenizer="weights/clip_l14/tokenizer",
    ),
    "image_reward": Published(
        "image_reward",
        "ImageReward.pt",
        "https://huggingface.co/THUDM/ImageReward",
        1790,
        "Apache-2.0",
        tokenizer="a folder with vocab.txt of google-bert/bert-base-uncased",
    ),
    "aesthetic": Published(
        "aesthetic",
        "sa_0_4_vit_l_14_linear.pth",
        f"{LAION}sa_0_4_vit_l_14_linear.pth",
        0.004,
        "MIT",
        needs=("clip_l14",),
    ),
}


def weights_missing(networks: Sequence[str]) -> str:
    """What to do where these networks have no weights: files, commands, and how to name them."""
    wanted = dict.fromkeys(need for name in networks for need in (name, *NETWORK_FILES[name].needs))
    steps = []
    for name in wanted:
        one = NETWORK_FILES[name]
        get = f"get {one.source} ({one.megabytes:g} MB) from {one.address}, then " * bool(
            one.address
        )
        steps.append(f"{name}: {get}`{one.command(name)}`")
    named = " ".join(f"{name} weights/{name}" for name in wanted)
    return (
        f"expected weights of {', '.join(wanted)}, got none; {'; '.join(steps)}; and name them:"
        f" --networks {named} (docs/evaluating.md)"
    )
