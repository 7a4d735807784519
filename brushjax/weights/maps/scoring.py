"""Names and shapes of the networks that only score pictures: LPIPS's, ImageReward, the aesthetic
head.
"""

from __future__ import annotations

from typing import Any

from brushjax.weights.maps.unet import count
from brushjax.weights.maps.vit import HEAD_WIDTH, infer_timm, timm_modules
from brushjax.weights.rules import Dialect, Ignored, Module, Shapes, WeightMap, WeightsError


def infer_lpips(shapes: Shapes) -> dict[str, Any]:
    """Tells which of torchvision's three networks a file holds."""
    signs = {
        "squeeze": "features.3.squeeze.weight",
        "vgg": "features.28.weight",
        "alex": "features.10.weight",  # the others have layers of that number too: asked last
    }
    net = next((net for net, sign in signs.items() if sign in shapes), None)
    if net is None:
        raise WeightsError(
            "expected the features of torchvision's alexnet, squeezenet1_1 or vgg16; this is "
            "another network."
        )
    return {"_class_name": "LPIPS", "net": net}


LPIPS = WeightMap(
    kind="lpips",
    folder="lpips",
    stem="model",
    classes=("LPIPS",),
    model=("brushjax.models.scoring.lpips", "LPIPS", "LPIPSConfig"),
    dialects=(Dialect("diffusers", "", "features.0.weight", infer_lpips),),
    ldm_dialect=lambda config, kinds: None,
    ignored=(Ignored(r"^classifier\.", "the classifier, which LPIPS does not use"),),
)

BLIP = "blip.visual_encoder."


def image_reward_modules(config: dict[str, Any]) -> tuple[Module, ...]:
    """Makes the table of the published file: timm's names in the image encoder."""
    vision = {"num_hidden_layers": config["vision_num_hidden_layers"]}
    return (
        *timm_modules(vision, BLIP, BLIP),
        Module("blip.text_encoder.", "blip.text_encoder."),
        Module("mlp.", "mlp."),
    )


def infer_image_reward(shapes: Shapes) -> dict[str, Any]:
    """Tells the config from the published file."""
    visual = {n.removeprefix(BLIP): s for n, s in shapes.items() if n.startswith(BLIP)}
    vision = infer_timm(visual)
    text = "blip.text_encoder."
    vocabulary, width = shapes[f"{text}embeddings.word_embeddings.weight"]
    layer = f"{text}encoder.layer."
    numbered = sorted(n for n in shapes if n.startswith("mlp.layers.") and n.endswith("weight"))
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    return {
        "_class_name": "ImageReward",
        "hidden_size": width,
        "intermediate_size": shapes[f"{layer}0.intermediate.dense.weight"][0],
        "num_hidden_layers": count(shapes, layer),
        "num_attention_heads": width // HEAD_WIDTH,
        "vocab_size": vocabulary,
        "max_position_embeddings": shapes[f"{text}embeddings.position_embeddings.weight"][0],
        "image_size": vision["image_size"],
        "patch_size": vision["patch_size"],
        "mlp": [shapes[name][0] for name in numbered],
    } | {f"vision_{name}": vision[name] for name in names}


IMAGE_REWARD = WeightMap(
    kind="image_reward",
    folder="image_reward",
    stem="model",
    classes=("ImageReward",),
    model=("brushjax.models.scoring.image_reward", "ImageReward", "ImageRewardConfig"),
    dialects=(
        Dialect(
            "diffusers",
            "",
            f"{BLIP}vision_model.embeddings.class_embedding",
            infer_image_reward,
        ),
        Dialect("ldm", "", f"{BLIP}cls_token", infer_image_reward, image_reward_modules),
    ),
    ldm_dialect=lambda config, kinds: Dialect(
        "ldm", "", f"{BLIP}cls_token", infer_image_reward, image_reward_modules
    ),
    ignored=(
        Ignored(r"\.position_ids$", "a buffer of 0, 1, 2, ..., not a parameter"),
        Ignored(r"^blip\.(vision|text)_proj\.", "of BLIP's contrastive training"),
    ),
)


def infer_aesthetic(shapes: Shapes) -> dict[str, Any]:
    """Tells the width of the embedding that the head reads."""
    weight = shapes.get("weight") or shapes["linear.weight"]
    if weight[0] != 1:
        raise WeightsError(f"expected a head with one output, got {weight[0]}.")
    return {"_class_name": "AestheticHead", "width": weight[1]}


def aesthetic_modules(config: dict[str, Any]) -> tuple[Module, ...]:
    """Makes the table of the published file, which is the state of a lone linear layer."""
    return (Module("linear.weight", "weight"), Module("linear.bias", "bias"))


LONE = Dialect("ldm", "", "weight", infer_aesthetic, aesthetic_modules)
AESTHETIC = WeightMap(
    kind="aesthetic",
    folder="aesthetic",
    stem="model",
    classes=("AestheticHead",),
    model=("brushjax.models.scoring.image_reward", "AestheticHead", "AestheticConfig"),
    dialects=(Dialect("diffusers", "", "linear.weight", infer_aesthetic), LONE),
    ldm_dialect=lambda config, kinds: LONE,
)
