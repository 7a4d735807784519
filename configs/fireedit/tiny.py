"""A FireEdit in miniature, of the photographs that ship with the package: minutes on two cores.

    python train.py configs/fireedit/tiny.py --workdir runs/tiny_fireedit
    python -m benchmarks.fireedit_study --out runs/fireedit_study

All parts are there, each small, and all but the shipped base's autoencoder start from nothing:
vision transformers, proposals and language model have no published weights of this size.
"""

from brushjax.data.sets.told_edits import ToldEdits
from brushjax.models.encoders.llama import LlamaConfig
from brushjax.models.encoders.vit import PlainViTConfig, ViTConfig
from brushjax.models.fireedit.bridge import BridgeConfig
from brushjax.models.fireedit.editor import FireEditConfig
from brushjax.models.fireedit.hvca import HVCAConfig
from brushjax.models.fireedit.proposals import ProposerConfig
from brushjax.models.fireedit.qformer import QFormerConfig
from brushjax.models.fireedit.regions import RegionEncoderConfig
from brushjax.models.fireedit.tati import TATIConfig
from brushjax.models.fireedit.vlm import VLMConfig
from brushjax.models.unet import UNetConfig
from brushjax.models.vae import VAEConfig
from brushjax.pipelines.bases import SHIPPED_BASE
from brushjax.pipelines.fireedit import Sizes
from brushjax.pipelines.instructions import Prompt, read_words
from brushjax.training.objectives.denoising import NoiseConfig
from brushjax.training.objectives.fireedit import FireEditObjective
from brushjax.training.objectives.fireedit_parts import Sources
from brushjax.training.optimizers import Group, OptimizerConfig
from brushjax.training.recipe import TrainConfig

SIDE = 64  # pixels: four times as many samples a second as at the base's 128
WIDTH = 64  # of the base's text features, and so of all that speaks to the UNet
SCALE = 0.25049182772636414  # of the base's latents
SLOWER = r"(llama|qformer|bridge|region_encoder|dino|clip_vision)\..*"  # transformers
TOKENS = 16  # of what the UNet reads: 77 would take a third of a step


def sizes() -> Sizes:
    """The parts' configs; 3 million parameters."""
    words = read_words(str(SHIPPED_BASE)).size
    return Sizes(
        llama=LlamaConfig(words, WIDTH, 3 * WIDTH, 3, 4),
        update=None,
        dino=PlainViTConfig(WIDTH, 2 * WIDTH, 2, 4, image_size=SIDE, patch_size=8),
        clip_vision=ViTConfig(WIDTH, 2 * WIDTH, 2, 4, SIDE, patch_size=16, projection_dim=0),
        proposer=ProposerConfig(
            dino_dim=WIDTH, d_model=32, heads=4, encoder_layers=1, decoder_layers=1, ffn=64,
            queries=16, bbox_hidden=32,
        ),
        region_encoder=RegionEncoderConfig(
            channels=WIDTH, groups=4, pos_hidden=32, feature_dim=WIDTH, out_dim=WIDTH, levels=1,
            roi_output_size=4, num_fuse=1, image_size=SIDE,
            compat=False,  # the published weights' fault is none of ours
        ),
        bridge=BridgeConfig(WIDTH, WIDTH),
        qformer=QFormerConfig(WIDTH, 4, 2, 2 * WIDTH, WIDTH, num_queries=TOKENS),
        tati=TATIConfig(
            WIDTH, WIDTH, WIDTH, 2, 4, TOKENS, WIDTH, 2 * WIDTH,
            residual=True,  # a shorter way from the language model to the UNet learns sooner
        ),
        hvca=HVCAConfig(
            width=WIDTH, heads=4, dim_head=16, num_queries=8, clip_dim=WIDTH, dino_dim=WIDTH,
            ff_mult=2,
        ),
        unet=UNetConfig(
            # Latents of 8 and 4 cells a side. One group: a norm over few channels loses the
            # picture's mean colour.
            in_channels=8, block_out_channels=(48, 96), layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D",) * 2,
            up_block_types=("CrossAttnUpBlock2D",) * 2,
            cross_attention_dim=WIDTH, attention_head_dim=4, norm_num_groups=1,
            visual_cross_attention_dim=WIDTH, extra=f'{{"sample_size": {SIDE // 8}}}',
        ),
        vae=VAEConfig(
            block_out_channels=(16, 32, 64, 96), layers_per_block=1, norm_num_groups=8,
            scaling_factor=SCALE,
        ),
        edit=FireEditConfig(
            detector_layers=1, region_layers=1, picture_scale=SCALE,
            drop_probability=0.03,
            least_change=0.06,  # the best of 0.03 to 0.1 on held-out edits of another seed
        ),
        sequence=VLMConfig(
            words, bos=words - 2, eos=words - 1, pad=0, img_tokens=8, image_tokens=16,
            region_slots=4, max_length=56, max_answer=12,
        ),
    )  # fmt: skip


def get_config() -> TrainConfig:
    """Returns the recipe."""
    base = str(SHIPPED_BASE)
    return TrainConfig(
        name="tiny_fireedit",
        objective=FireEditObjective(
            sizes=sizes(),
            sources=Sources(llama=base, dino="", clip=base, groma="", unet="", vae=base),
            prompt=Prompt("", "", "", ""),  # each token costs time
            # Of the edited picture hardly anything shows at nine tenths of the timesteps, as 8 x 8
            # cells tell much even in noise: the model is to learn it from the instruction.
            noise=NoiseConfig(beta_start=0.02, beta_end=0.06, prediction_type="sample"),
            afresh=("llama", "region_encoder", "dino", "clip_vision", "proposer"),
            mean_over_edits=True,
            # There is no first stage. Without its distance the features were measured to be the
            # same for all instructions after 2,000 steps.
            alignment_weight=1.0,
            spacing="trailing",  # one step is the best: it begins at the noisiest
            answer_weight=0.1,  # the same few tokens: learnt in a hundred steps
        ),
        data=ToldEdits(
            pool=4096, jitter=0.1, questions=0.05, shares=(0.08, 0.22, 0.32, 0.12, 0.14, 0.12)
        ),
        encode_once=True,  # the autoencoder alone
        optimizer=OptimizerConfig(
            learning_rate=2e-3,
            warmup_steps=100,
            decay="cosine",
            final_fraction=0.02,
            groups=(Group(SLOWER, learning_rate=1e-3),),
        ),
        steps=2400,
        batch_size=16,
        ema_decay=0.99,
        log_every=20,
        checkpoint_every=250,
        validation=ToldEdits(pool=256, split="held_out", seed=1),
        validation_batches=16,
    )
