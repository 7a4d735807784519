"""Names of FireEdit's parts: Groma's, SmartEdit's, ELLA's, and our own where nothing is published.

The modules carry the published names, so there is nothing to translate. A file without a config is
read with the published sizes; heads are in no shape.
"""

from __future__ import annotations

from brushjax.weights.rules import Alias, Dialect, Ignored, WeightMap

MODULE = "brushjax.models.fireedit"


def _part(
    kind: str,
    place: str,
    class_name: str,
    sign: str,
    *,
    source: str | None = None,
    ignored: tuple[Ignored, ...] = (),
    copies: tuple[Alias, ...] = (),
) -> WeightMap:
    """Makes a part's table.

    Args:
        place: module below models/fireedit.
        source: class in the config.json of the published folder that also holds this part, if any.
    """
    config = {"_class_name": class_name}
    names = Dialect("diffusers", "", sign, lambda shapes: dict(config))
    one_file = Dialect("ldm", "", sign, lambda shapes: dict(config))
    return WeightMap(
        kind=kind,
        folder=kind,
        stem="model",
        classes=(class_name, source, None),  # no program publishes these configs
        model=(f"{MODULE}.{place}", class_name, f"{class_name}Config"),
        dialects=(names,),
        ldm_dialect=lambda config, kinds: one_file,
        ignored=ignored,
        copies=copies,
    )


def _rest_of_groma(own: str) -> Ignored:
    return Ignored(rf"^(?!{own})", "another part of Groma")


DETECTOR = r"perceiver\.ddetr_transformer\."
PROPOSER = _part(
    "proposer",
    "proposals",
    "Proposer",
    "perceiver.ddetr_transformer.level_embed",
    source="GromaModel",
    ignored=(
        _rest_of_groma(rf"({DETECTOR}|perceiver\.input_proj\.)"),
        Ignored(rf"^{DETECTOR}decoder\.(bbox|class)_embed", "the same heads under another name"),
    ),
    copies=(Alias(rf"^({DETECTOR})((bbox|class)_embed)", r"\1decoder.\2"),),
)
REGION_ENCODER = _part(
    "region_encoder",
    "regions",
    "RegionEncoder",
    "region_encoder.roi_align.updims.weight",
    source="GromaModel",
    ignored=(_rest_of_groma(r"region_encoder\."),),
)
BRIDGE = _part(
    "bridge",
    "bridge",
    "Bridge",
    "img_txt_bridge.0.weight",
    source="GromaModel",
    ignored=(_rest_of_groma(r"img_txt_bridge\."),),
)
QFORMER = _part(
    "qformer",
    "qformer",
    "QFormer",
    "sd_query_tokens",
    ignored=(
        Ignored(r"^sd_qformer\.embeddings\.position_ids$", "a buffer of 0, 1, 2, ..."),
        Ignored(r"^mm_projector\.", "SmartEdit's adapter, for another vision transformer"),
        Ignored(r"^lm_head\.", "a copy of the language model's head"),
    ),
)
TATI = _part("tati", "tati", "TATI", "connector.latents")
HVCA = _part("hvca", "hvca", "HVCA", "type_clip")
RESAMPLER = _part(
    "resampler",
    "resampler",
    "Resampler",
    "image_proj.latents",
    ignored=(Ignored(r"^(?!image_proj\.)", "the second stream's keys and values"),),
)

FIREEDIT = (PROPOSER, REGION_ENCODER, BRIDGE, QFORMER, TATI, HVCA, RESAMPLER)
