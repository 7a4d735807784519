"""A local model: the loader's calls with a stand-in, and the classes of transformers themselves."""

import numpy as np
import pytest

from brushjax.agents import NotUnderstood, instructor

PICTURE = np.zeros((24, 32, 3), np.uint8)
REPLY = '{"category": "Remove", "object": "the dog", "target_caption": "a lawn"}'


class Ids(dict):
    """Inputs that go to a device."""

    def to(self, device):
        return self


class Reader:
    """A processor that remembers what it was asked and answers with a fixed text."""

    def __init__(self, reply):
        self.reply, self.messages = reply, None

    def apply_chat_template(self, messages, **options):
        self.messages = messages
        assert options["add_generation_prompt"]
        return Ids(input_ids=np.array([[1, 2, 3]]))

    def batch_decode(self, ids, skip_special_tokens):
        assert ids.tolist() == [[7, 8]]
        return [self.reply]


class Model:
    """A model that adds two tokens."""

    device = "cpu"

    def to(self, device):
        return self

    def eval(self):
        return self

    def generate(self, input_ids, max_new_tokens, do_sample):
        assert not do_sample
        return np.concatenate([input_ids, [[7, 8]]], axis=1)


@pytest.fixture
def stand_in(monkeypatch):
    import transformers

    def put(reply):
        reader = Reader(reply)
        monkeypatch.setattr(transformers.AutoProcessor, "from_pretrained", lambda *_, **__: reader)
        kind = transformers.AutoModelForImageTextToText
        monkeypatch.setattr(kind, "from_pretrained", lambda *_, **__: Model())
        return reader

    return put


@pytest.mark.torch
def test_local_model_plans_from_its_reply(stand_in):
    reader = stand_in(f"Here: {REPLY}")
    plan = instructor("local", model="folder")("remove the dog", PICTURE)
    assert (plan.category, plan.object, plan.target_caption) == ("removal", "dog", "a lawn")
    kinds = [part["type"] for part in reader.messages[1]["content"]]
    assert kinds == ["image", "text"]


@pytest.mark.torch
def test_local_model_says_what_is_no_plan(stand_in):
    stand_in("I can't see a dog.")
    with pytest.raises(NotUnderstood, match="expected a JSON object"):
        instructor("local", model="folder")("remove the dog")


@pytest.mark.torch
def test_local_model_runs_qwens_own_class(tmp_path, monkeypatch):
    import torch
    import transformers

    text = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    text |= {"num_attention_heads": 2, "num_key_value_heads": 1, "eos_token_id": 1}
    text |= {"rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2]}}
    text["rope_parameters"]["rope_theta"] = 10000.0
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2}
    config = transformers.Qwen2_5_VLConfig(
        text_config=text,
        vision_config={**vision, "out_hidden_size": 16, "fullatt_block_indexes": [0]},
        image_token_id=5,
        video_token_id=6,
        vision_start_token_id=7,
    )
    transformers.Qwen2_5_VLForConditionalGeneration(config).save_pretrained(tmp_path)

    class Words(Reader):  # its own processor wants torchvision
        def apply_chat_template(self, messages, **options):
            ids = torch.tensor([[2, 3, 4]])
            return transformers.BatchFeature({"input_ids": ids, "attention_mask": ids > 0})

        def batch_decode(self, ids, skip_special_tokens):
            assert ids.shape[0] == 1
            assert ids.shape[1] > 0
            return [self.reply]

    reader = Words(REPLY)
    monkeypatch.setattr(transformers.AutoProcessor, "from_pretrained", lambda *_, **__: reader)
    monkeypatch.setattr("brushjax.agents.local.NEW_TOKENS", 4)
    plan = instructor("local", model=str(tmp_path), dtype="float32")("remove the dog")
    assert (plan.category, plan.object) == ("removal", "dog")
