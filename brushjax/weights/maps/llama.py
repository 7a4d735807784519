"""Names of LLaMA: transformers' own, inside LLaVA, and llama.cpp's."""

from __future__ import annotations

import re
from typing import Any

from brushjax.weights.rules import Dialect, Ignored, Leaf, Module, Shapes, WeightMap, WeightsError

# Settings of the original LLaVA code that don't concern its language model.
PICTURES = re.compile(r"(^|_)mm_|^image_|^tokenizer_(model_max_length|padding_side)$")
LAYERS = "model.layers."
EMBEDDINGS = "model.embed_tokens."
GGUF_LAYER = (
    Leaf("input_layernorm.", "attn_norm."),
    Leaf("self_attn.q_proj.", "attn_q."),
    Leaf("self_attn.k_proj.", "attn_k."),
    Leaf("self_attn.v_proj.", "attn_v."),
    Leaf("self_attn.o_proj.", "attn_output."),
    Leaf("post_attention_layernorm.", "ffn_norm."),
    Leaf("mlp.gate_proj.", "ffn_gate."),
    Leaf("mlp.up_proj.", "ffn_up."),
    Leaf("mlp.down_proj.", "ffn_down."),
)


def gguf_modules(config: dict[str, Any]) -> tuple[Module, ...]:
    """Makes the table of llama.cpp's names."""
    layers = (
        Module(f"{LAYERS}{i}.", f"blk.{i}.", GGUF_LAYER) for i in range(config["num_hidden_layers"])
    )
    return (
        Module(EMBEDDINGS, "token_embd."),
        Module("model.norm.", "output_norm."),
        Module("lm_head.", "output."),
        *layers,
    )


def later_llava_modules(config: dict[str, Any]) -> tuple[Module, ...]:
    """Makes the table of LLaVA's modules as transformers has named them since 4.52."""
    return (Module("model.", "model.language_model."), Module("lm_head.", "lm_head."))


def language_settings(config: dict[str, Any]) -> dict[str, Any]:
    """Returns the config of LLaVA's language model: transformers keeps it as the text half, the
    original code among settings for pictures."""
    if "text_config" not in config and config.get("model_type") == "llama":
        return config
    inner = config.get("text_config", config)
    kept = {name: value for name, value in inner.items() if not PICTURES.search(name)}
    return kept | {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}


def tied_head(config: dict[str, Any]) -> tuple[Ignored, ...]:
    """A head that the config ties to the embeddings is not read, as transformers does."""
    if not config.get("tie_word_embeddings"):
        return ()
    return (Ignored(r"^(lm_head|output)\.weight$", "the head is the embedding table"),)


def _needs_config(shapes: Shapes) -> dict[str, Any]:
    raise WeightsError(
        "tensors do not tell how many heads a language model has, nor its rotary embeddings. Pass "
        "the folder with its config.json, or config= (--config)."
    )


LLAVA = Dialect("ldm", "language_model.", f"{EMBEDDINGS}weight", _needs_config)

LLAMA = WeightMap(
    kind="llama",
    folder="llm",
    stem="model",
    classes=(
        "LlamaForCausalLM",
        "LlavaForConditionalGeneration",
        "LlavaLlamaForCausalLM",
    ),
    model=("brushjax.models.encoders.llama", "Llama", "LlamaConfig"),
    dialects=(
        Dialect("diffusers", "", f"{EMBEDDINGS}weight", _needs_config),
        LLAVA,
        Dialect(
            "ldm",
            "",
            "model.language_model.embed_tokens.weight",
            _needs_config,
            later_llava_modules,
        ),
        Dialect("ldm", "", "token_embd.weight", _needs_config, gguf_modules),
    ),
    ldm_dialect=lambda config, kinds: LLAVA,
    ignored=(
        Ignored(r"\.rotary_emb\.inv_freq$", "a buffer of frequencies, not a parameter"),
        Ignored(r"(^|\.)vision_tower\.", "LLaVA's image encoder"),
        Ignored(r"(^|\.)(mm_projector|multi_modal_projector)\.", "LLaVA's bridge to its images"),
        Ignored(r"^(model\.)?image_newline$", "LLaVA's token between rows of an image"),
    ),
    stacks=(LAYERS,),
    settings=language_settings,
    ignored_for=tied_head,
)
