"""A FireEdit that is made in seconds: all parts, each as small as it can be."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors.numpy import save_file

import brushjax
from brushjax.models.encoders.llama import Llama, LlamaConfig
from brushjax.models.encoders.vit import PlainViTConfig, ViTConfig
from brushjax.models.fireedit.bridge import BridgeConfig
from brushjax.models.fireedit.detector import ProposerConfig
from brushjax.models.fireedit.editor import FireEditConfig
from brushjax.models.fireedit.hvca import HVCAConfig
from brushjax.models.fireedit.qformer import QFormerConfig
from brushjax.models.fireedit.regions import RegionEncoderConfig
from brushjax.models.fireedit.tati import TATIConfig
from brushjax.models.fireedit.vlm import VLMConfig
from brushjax.models.unet import UNetConfig
from brushjax.models.vae import VAEConfig
from brushjax.nn import Shapes, lora
from brushjax.pipelines.bases import SHIPPED_BASE
from brushjax.pipelines.fireedit import Sizes
from brushjax.pipelines.instructions import Prompt, read_words
from brushjax.training.objectives.fireedit import FireEditObjective
from brushjax.training.objectives.fireedit_parts import Sources
from brushjax.weights.fireedit import PARTS, Parts, save_fireedit

WIDE, NARROW = 16, 8  # of the language model, of the text features
PROMPT = Prompt("a picture <img>", "ask", "say", "so")


def sizes():
    """The parts' configs; the tokenizer is the shipped base's."""
    words = read_words(str(SHIPPED_BASE)).size
    return Sizes(
        llama=LlamaConfig(words, WIDE, 2 * WIDE, 2, 2),
        update=lora.LoRA(rank=2, alpha=4),
        dino=PlainViTConfig(8, 16, 4, 2, image_size=28, patch_size=7),
        clip_vision=ViTConfig(8, 16, 2, 2, image_size=28, patch_size=14, projection_dim=0),
        proposer=ProposerConfig(
            dino_dim=8, d_model=8, heads=2, encoder_layers=1, decoder_layers=2, ffn=8, n_points=1,
            queries=6, bbox_hidden=8,
        ),
        region_encoder=RegionEncoderConfig(
            channels=8, groups=2, pos_hidden=8, feature_dim=8, out_dim=WIDE, roi_output_size=2,
            num_fuse=1, image_size=28,
        ),
        bridge=BridgeConfig(vision_dim=8, llm_dim=WIDE),
        qformer=QFormerConfig(NARROW, 2, 2, 16, WIDE, num_queries=5),
        tati=TATIConfig(8, 8, NARROW, 1, 2, 5, input_dim=NARROW),
        hvca=HVCAConfig(width=NARROW, heads=2, dim_head=4, depth=1, num_queries=3, clip_dim=8,
                        dino_dim=8),
        unet=UNetConfig(
            in_channels=8, block_out_channels=(8, 8),
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), layers_per_block=1,
            cross_attention_dim=NARROW, attention_head_dim=2, norm_num_groups=4,
            visual_cross_attention_dim=NARROW,
        ),
        vae=VAEConfig(block_out_channels=(4,) * 4, layers_per_block=1, norm_num_groups=2),
        edit=FireEditConfig(),
        sequence=VLMConfig(
            words, bos=words - 2, eos=words - 1, pad=0, img_tokens=3, image_tokens=4,
            region_slots=4, max_length=64, max_answer=12,
        ),
    )  # fmt: skip


def models():
    """Every part with random weights."""
    ours = sizes()
    return {kind: random_model(*ours.of(kind), n) for n, kind in enumerate(PARTS)}


def null_context():
    shape = (1, sizes().tati.num_latents, NARROW)
    return np.random.default_rng(9).standard_normal(shape).astype(np.float32)


def write(folder):
    """Writes the published parts, and an empty prompt's features; returns the objective."""
    ours = sizes()
    for kind, model in models().items():
        if kind == "llama":
            model = random_model(Llama, ours.llama, 0)
        brushjax.save(model, folder / ("llm" if kind == "llama" else kind))
    save_file({"null_context": null_context()}, folder / "null_context.safetensors")
    return objective(folder)


def objective(folder):
    """What trains the parts of a folder that `write` wrote."""
    sources = dict.fromkeys((field.name for field in dataclasses.fields(Sources)), "")
    sources |= {"start": str(folder), "llama": str(SHIPPED_BASE)}
    return FireEditObjective(sizes(), Sources(**sources), PROMPT)


def write_whole(folder):
    """Writes a folder as training exports it."""
    ours = sizes()
    save_fireedit(Parts(models(), ours.edit, ours.sequence, jnp.asarray(null_context())), folder)
    read_words(str(SHIPPED_BASE)).save(folder / "tokenizer")
    (folder / "prompt.json").write_text(json.dumps(dataclasses.asdict(PROMPT)))


def random_model(make, config, seed):
    """Builds a model of numpy's random numbers, which takes no compiler."""
    graph, state = nnx.split(nnx.eval_shape(lambda: make(config, rngs=Shapes())))
    rng = np.random.default_rng(seed)

    def values(path, leaf):
        drawn = 0.2 * rng.standard_normal(leaf.shape)
        ones = any("scale" in str(entry) for entry in path)
        return jnp.asarray(drawn + ones, jnp.float32)

    return nnx.merge(graph, jax.tree_util.tree_map_with_path(values, state))
