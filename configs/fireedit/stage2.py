"""FireEdit: language model, regions, Q-Former, TATI, HVCA and UNet learn to edit together.

    python train.py configs/fireedit/stage2.py --workdir runs/fireedit/stage2

Reads the published sets (docs/fireedit.md says where from) and what stage 1 exported. The paper
gives no numbers of its training but the low-rank updates' (rank 8, alpha 16); the others are
SmartEdit's second stage (arXiv 2312.06739), or ours with the reason.
"""

from brushjax.data.mixture import Mixture, Part
from brushjax.data.sets.conversations import Conversations
from brushjax.data.sets.edit_pairs import EditPairs
from brushjax.data.sets.segmentation import Segmentation
from brushjax.sharding import LANGUAGE_MODEL, MeshShape
from brushjax.training.objectives.fireedit import FireEditObjective
from brushjax.training.objectives.fireedit_parts import Sources
from brushjax.training.optimizers import Group, OptimizerConfig
from brushjax.training.recipe import TrainConfig

SIZE = 256  # SmartEdit's and instruct-pix2pix's; FireEdit says nothing
COCO = "data/coco"
BOXES = ""
"""Folder of regions found beforehand, such as "data/boxes", which `python -m brushjax propose
configs/fireedit/stage2.py` fills; empty finds them in each step."""
INSTANCES = f"{COCO}/annotations/instances_train2014.json"


def boxes(name: str) -> str:
    """Folder of a set's regions, if they are found beforehand."""
    return BOXES and f"{BOXES}/{name}"


def edits() -> tuple[Part, ...]:
    """45 % of published edits, the three sets alike: SmartEdit's 1 : 1 with UltraEdit added."""
    sets = (
        ("data/instructpix2pix-clip-filtered/data/train-*.parquet", "instruct-pix2pix"),
        ("data/MagicBrush/data/train-*.parquet", "magicbrush"),
        ("data/UltraEdit_500k/data/FreeForm*.parquet", "ultraedit"),
    )
    return tuple(Part(EditPairs(path, form, SIZE, boxes=boxes(form)), 0.15) for path, form in sets)


def masks() -> tuple[Part, ...]:
    """25 % of segmentation as edits, divided about as the sets' sizes: 118, 42 and 209 thousand."""
    pictures, refs = f"{COCO}/train2014", f"{COCO}/refcoco/refs(unc).p"
    grefs = f"{COCO}/grefcoco/grefs(unc).json"
    maps, labels = f"{COCO}/stuffthingmaps/train2017", f"{COCO}/labels.txt"
    one, several, stuff = (
        Segmentation(path, images, names, form=form, size=SIZE, boxes=boxes(form))
        for path, images, names, form in (
            (refs, pictures, INSTANCES, "refcoco"),
            (grefs, pictures, INSTANCES, "grefcoco"),
            (maps, f"{COCO}/train2017", labels, "coco-stuff"),
        )
    )
    return Part(stuff, 0.08), Part(one, 0.03), Part(several, 0.14)


def get_config() -> TrainConfig:
    """Returns the recipe."""
    reasoning = EditPairs(
        "data/ReasonEdit/train.json", "reasonedit", SIZE, boxes=boxes("reasonedit")
    )
    questions = Conversations(
        "data/llava_instruct_150k.json", f"{COCO}/train2017", SIZE, boxes=boxes("llava")
    )
    return TrainConfig(
        name="fireedit_stage2",
        objective=FireEditObjective(
            sources=Sources(start="runs/fireedit/stage1/export"),
            boxes="given" if BOXES else "proposed",
        ),
        # 15 % of ReasonEdit as SmartEdit; 15 % of questions keep the language model's answers.
        data=Mixture((*edits(), *masks(), Part(reasoning, 0.15), Part(questions, 0.15)), workers=8),
        optimizer=OptimizerConfig(
            learning_rate=1e-5,  # SmartEdit, stage 2
            warmup_steps=20,  # SmartEdit: 0.1 % of the steps
            weight_decay=0.0,  # SmartEdit
            clip_norm=1.0,  # of transformers' trainer
            # What starts afresh learns as IP-Adapter's new layers: 1e-5 would be slow.
            groups=(Group(r"(tati|hvca)\..*|unet\..*\.to_[kv]_ip\..*", learning_rate=1e-4),),
        ),
        steps=20_000,  # SmartEdit: 5,000 and then 15,000 with its own module
        batch_size=128,  # SmartEdit: 4 accumulated of 4 on each of 8 GPUs
        compute_dtype="bfloat16",
        rematerialise="layers",  # the language model's activations of 640 places
        mesh=MeshShape(data=-1, fsdp=1, tensor=1),  # of 16 GB a device: tensor=4
        frozen_rules=LANGUAGE_MODEL,
        log_every=20,
        checkpoint_every=500,
        nonfinite="skip",
    )
