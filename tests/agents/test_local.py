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
