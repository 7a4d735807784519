"""FireEdit's second stage restated in PyTorch: diffusers' UNet with its own second stream of
attention, transformers' LLaMA with peft's low-rank updates, the small parts as the paper has them.

It reads the paper's composition, not ours: a sequence is as long as what stands in it, so that it
needs neither masks nor counted positions; a question never reaches the UNet. Parameters keep our
names and our layout, in one flat dict, so that optimizers and differences compare like with like.
"""

import peft
import torch
import transformers
from diffusers import UNet2DConditionModel
from diffusers.models import embeddings
from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0
from torch.func import functional_call
from torch.nn import functional as F

TEXT, IMAGE, REGION = range(3)  # kinds of places in a sequence
LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "weight"}


def under(params, prefix):
    """The parameters whose names start so, without that start."""
    return {k.removeprefix(prefix): v for k, v in params.items() if k.startswith(prefix)}


def theirs(params):
    """Parameters under PyTorch's names and in its layout; gradients flow back through both."""
    found = {}
    for name, value in params.items():
        path, _, leaf = name.rpartition(".")
        if leaf == "kernel":
            value = value.permute(3, 2, 0, 1) if value.ndim == 4 else value.T
        found[f"{path}.{LEAVES.get(leaf, leaf)}"] = value
    return found


def linear(params, name, x):
    y = x @ params[f"{name}.kernel"]
    return y + params[f"{name}.bias"] if f"{name}.bias" in params else y


def norm(params, name, x, eps):
    return F.layer_norm(x, x.shape[-1:], params[f"{name}.scale"], params[f"{name}.bias"], eps)


def attend(q, k, v, heads):
    """Softmax attention of as many heads. [B, N, D] each"""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def bridge(params, patches):
    """Adapter W: squares of two by two patches become one token. [N, C] -> [N / 4, E]"""
    side = round(len(patches) ** 0.5)
    grid = patches.unflatten(0, (side, side))
    corners = [grid[row::2, column::2] for column in (0, 1) for row in (0, 1)]
    tokens = torch.cat(corners, dim=-1).flatten(0, 1)
    return linear(params, "2", F.gelu(linear(params, "0", tokens)))


def qformer(params, config, states):
    """Learned queries look at each other and, in every other layer, at the states."""
    eps = config.layer_norm_eps
    x = norm(params, "sd_qformer.embeddings.LayerNorm", params["sd_query_tokens"], eps)
    x = x.expand(len(states), -1, -1)
    for number in range(config.layers):
        layer = f"sd_qformer.encoder.layer.{number}"
        looks = [("attention", None)]
        looks += [("crossattention", states)] * (number % config.cross_attention_freq == 0)
        for name, context in looks:
            own = f"{layer}.{name}"
            context = x if context is None else context
            q = linear(params, f"{own}.self.query", x)
            k, v = (linear(params, f"{own}.self.{part}", context) for part in ("key", "value"))
            y = linear(params, f"{own}.output.dense", attend(q, k, v, config.heads))
            x = norm(params, f"{own}.output.LayerNorm", x + y, eps)
        y = F.gelu(linear(params, f"{layer}.intermediate_query.dense", x))
        y = linear(params, f"{layer}.output_query.dense", y)
        x = norm(params, f"{layer}.output_query.LayerNorm", x + y, eps)
    return x


def tati(params, config, features, timestep):
    """ELLA's resampler: norms are shifted and scaled by what the timestep says."""
    waves = embeddings.get_timestep_embedding(timestep, config.time_channel, True, 0)
    time = linear(params, "time_embedding.linear_1", waves.to(features))
    time = F.silu(linear(params, "time_embedding.linear_2", F.silu(time)))
    params = under(params, "connector.")

    def timed(name, x):
        shift, scale = linear(params, f"{name}.linear", time)[:, None].chunk(2, dim=-1)
        return F.layer_norm(x, x.shape[-1:], eps=config.norm_eps) * (1 + scale) + shift

    x = params["latents"] + linear(params, "time_aware_linear", time)[:, None]
    text = linear(params, "proj_in", features)
    for number in range(config.layers):
        block = f"perceiver_blocks.{number}"
        queries = timed(f"{block}.ln_1", x)
        context = torch.cat([queries, timed(f"{block}.ln_2", text)], dim=1)
        weights = params[f"{block}.attn.in_proj_weight"].chunk(3)
        biases = params[f"{block}.attn.in_proj_bias"].chunk(3)
        parts = map(F.linear, (queries, context, context), weights, biases)
        x = x + linear(params, f"{block}.attn.out_proj", attend(*parts, config.heads))
        y = F.relu(linear(params, f"{block}.mlp.c_fc", timed(f"{block}.ln_ff", x))).square()
        x = x + linear(params, f"{block}.mlp.c_proj", y)
    return x


def hvca(params, config, clip, dino, text):
    """A few queries look at both encoders' tokens, then read the text."""
    eps = config.norm_eps
    visual = torch.cat(
        [
            linear(params, "proj_clip", clip) + params["type_clip"],
            linear(params, "proj_dino", dino) + params["type_dino"],
        ],
        dim=1,
    )
    x = params["queries"].expand(len(visual), -1, -1)
    for number in range(config.depth):
        block = f"blocks.{number}"
        looks = ("visual", "norm_q1", visual), ("text", "norm_q2", text)
        for name, before, context in looks:
            own = f"{block}.{name}_attention"
            context = norm(params, f"{block}.norm_{name}", context, eps)
            q = linear(params, f"{own}.to_q", norm(params, f"{block}.{before}", x, eps))
            k, v = (linear(params, f"{own}.{part}", context) for part in ("to_k", "to_v"))
            x = x + linear(params, f"{own}.to_out", attend(q, k, v, config.heads))
        y = F.gelu(linear(params, f"{block}.ff.fc1", norm(params, f"{block}.norm_ff", x, eps)))
        x = x + linear(params, f"{block}.ff.fc2", y)
    return norm(params, "norm_out", linear(params, "proj_out", x), eps)


class TorchFireEdit:
    """The composition; it holds modules for their code alone, their weights come with each call."""

    def __init__(self, sizes):
        self.sizes = sizes
        llama = sizes.llama
        settings = transformers.LlamaConfig(
            vocab_size=llama.vocab_size,
            hidden_size=llama.hidden_size,
            intermediate_size=llama.intermediate_size,
            num_hidden_layers=llama.num_hidden_layers,
            num_attention_heads=llama.num_attention_heads,
            rms_norm_eps=llama.rms_norm_eps,
            attn_implementation="sdpa",
        )
        update = peft.LoraConfig(
            r=sizes.update.rank,
            lora_alpha=sizes.update.alpha,
            target_modules=["q_proj", "v_proj"],
        )
        model = transformers.LlamaModel(settings)
        self.llama = peft.inject_adapter_in_model(update, model).double().eval()
        self.unet = two_streams(sizes.unet, sizes.hvca).double().eval()

    def states(self, params, tokens):
        """What the language model makes of one sequence, after its final norm. [S, E]"""
        own, found = under(params, "llama.model."), {}
        stack = under(own, "layers.stack.")
        for number in range(self.sizes.llama.num_hidden_layers):
            layer = {f"layers.{number}.{name}": value[number] for name, value in stack.items()}
            updated = {name.partition(".lora_A")[0] for name in layer if ".lora_A" in name}
            for name, value in layer.items():
                path, leaf = name.rsplit(".", 1)
                if ".lora_" in name:
                    path = f"{path}.default"
                elif path in updated:
                    path = f"{path}.base_layer"
                found[f"{path}.{leaf}"] = value
        found |= {name: own[name] for name in ("embed_tokens.embedding", "norm.scale")}
        weights = theirs(found) | dict(self.llama.named_buffers())
        inputs = {"inputs_embeds": tokens[None], "use_cache": False}
        out = functional_call(self.llama, weights, kwargs=inputs, strict=True)
        return out.last_hidden_state[0]

    def read(self, params, sample):
        """Eq. 4 and 5: the states at one sample's [IMG] tokens, its answer's summed cross-entropy,
        and over how many tokens."""
        ids, kind, index, labels = (sample[name] for name in ("ids", "kind", "index", "labels"))
        image = bridge(under(params, "bridge.img_txt_bridge."), sample["hidden"][-1, 1:])
        updims = under(params, "region_encoder.region_encoder.roi_align.")
        regions = linear(updims, "updims", sample["regions"])
        words = torch.cat([params["llama.model.embed_tokens.embedding"], params["llama.new_embed"]])
        sources = {TEXT: words, IMAGE: image, REGION: regions}
        rows = {TEXT: ids, IMAGE: index, REGION: index}
        stands = [
            n
            for n, what in enumerate(kind.tolist())
            if what in (TEXT, IMAGE) or (what == REGION and sample["boxes_mask"][index[n]])
        ]
        places = [int(kind[n]) for n in stands]
        x = torch.stack([sources[what][rows[what][n]] for what, n in zip(places, stands)])
        states = self.states(params, x)
        head = torch.cat([params["llama.lm_head.kernel"].T, params["llama.new_head"]])
        learnt = labels[stands].long()
        logits = states @ head.T
        answer = F.cross_entropy(logits[:-1], learnt[1:], ignore_index=-100, reduction="sum")
        return states[ids[stands] >= self.sizes.sequence.img_0], answer, (learnt != -100).sum()

    def predict(self, params, img, batch, draws):
        """Eq. 6 and 7: the noise that the UNet sees in edits, with what `draws` drops dropped."""
        sizes, null = self.sizes, params["null_context"]
        noisy, timestep, lose_text, lose_image = draws
        features = qformer(under(params, "qformer."), sizes.qformer, img)
        context = tati(under(params, "tati."), sizes.tati, features, timestep)
        lost = lose_text[:, None, None]
        context, text = (torch.where(lost, null, x) for x in (context, features))
        visual = hvca(under(params, "hvca."), sizes.hvca, batch["clip"], batch["dino"], text)
        keep = (~lose_image).to(visual)
        picture = batch["image_latents"] * keep[:, None, None, None]
        x = torch.cat([noisy, picture], dim=-1).permute(0, 3, 1, 2)
        streams = (context, [visual * keep[:, None, None]])
        weights = {
            name.replace("_ip.", "_ip.0.").replace("attn2.to_", "attn2.processor.to_")
            if "_ip." in name
            else name: value
            for name, value in theirs(under(params, "unet.")).items()
        }
        out = functional_call(self.unet, weights, (x, timestep, streams), strict=True).sample
        return out.permute(0, 2, 3, 1)

    def loss(self, params, batch, draws):
        """Eq. 8: the answers' mean cross-entropy over learnt tokens, and the noise's squared error,
        of which questions have none but are counted.

        Args:
          batch: of tensors, in our layout; `regions` are features before `updims`.
          draws: (noise, noisy latents, timestep, text lost, image lost), of all samples.
        """
        count, edits = len(batch["edit"]), batch["edit"].bool()
        read = [self.read(params, {k: v[n] for k, v in batch.items()}) for n in range(count)]
        states, answers, tokens = zip(*read)
        img = torch.stack([one for one, edit in zip(states, edits) if edit])
        noise, *rest = (x[edits] for x in draws)
        kept = {name: batch[name][edits] for name in ("clip", "dino", "image_latents")}
        prediction = self.predict(params, img, kept, rest)
        errors = (prediction - noise).square().flatten(1).mean(1)
        return sum(answers) / sum(tokens) + errors.sum() / count


def two_streams(config, visual):
    """diffusers' UNet whose cross-attentions are IP-Adapter's."""
    unet = UNet2DConditionModel(
        in_channels=config.in_channels,
        block_out_channels=config.block_out_channels,
        down_block_types=config.down_block_types,
        up_block_types=config.up_block_types,
        layers_per_block=config.layers_per_block,
        cross_attention_dim=config.cross_attention_dim,
        attention_head_dim=config.attention_head_dim,
        norm_num_groups=config.norm_num_groups,
    )
    for name, module in unet.named_modules():
        if name.endswith("attn2"):
            tokens = (visual.num_queries,)
            module.set_processor(
                IPAdapterAttnProcessor2_0(module.inner_dim, visual.width, tokens, 1.0)
            )
    return unet
