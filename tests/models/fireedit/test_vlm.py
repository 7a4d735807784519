"""The language model's sequence: what stands where, what is hidden, what is learnt."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from brushjax.models.fireedit import vlm
from brushjax.models.fireedit.vlm import IGNORED, IMAGE, PADDING, REGION, VLMConfig
from tests.models.encoders.tiny_llama import TINY as TINY_LLAMA
from tests.models.encoders.tiny_llama import build, run
from tests.models.fireedit.golden import Golden
from tests.support import error

TINY = VLMConfig(50, img_tokens=3, image_tokens=4, region_slots=5, max_length=32, max_answer=8)


@pytest.fixture(scope="module")
def golden():
    return Golden("whole")


def settings(golden):
    ids = golden.config["token_ids"]
    return VLMConfig(
        base_vocab=golden.config["base_vocab"],
        bos=ids["bos"],
        eos=ids["eos"],
        pad=ids["pad"],
        img_tokens=golden.config["img_tokens"],
        image_tokens=golden.config["grid"] ** 2 // 4,
        region_slots=golden.config["region_slots"],
        max_length=golden.config["seq"],
    )


def test_sequence_equals_the_stored_one(golden):
    """Planned anew from its pieces of text."""
    config, io = settings(golden), golden.io
    assert config.img_0 == golden.config["token_ids"]["img_0"]
    plans = []
    for ids, labels, kind in zip(io["input_ids"], io["labels"], io["slot_type"], strict=True):
        start, end = (np.argmax(ids == token) for token in (config.img + 1, config.img + 2))
        first, last = np.argmax(labels != IGNORED), np.argmax(ids == config.img_0)
        assert (kind[start + 1 : end] > 0).all()
        pieces = ids[1:start], ids[end + 1 : first], ids[first:last]
        plans.append(vlm.plan(config, *(piece.tolist() for piece in pieces)))
    ours = vlm.stacked(plans)
    np.testing.assert_array_equal(ours.ids, io["input_ids"])
    np.testing.assert_array_equal(ours.kind, io["slot_type"])
    np.testing.assert_array_equal(ours.index, io["slot_index"])
    np.testing.assert_array_equal(ours.labels, io["labels"])
    slots = np.arange(config.region_slots) < io["num_boxes"][:, None]
    visible = vlm.visible(ours, jnp.asarray(slots))
    np.testing.assert_array_equal(visible, io["attention_mask"])


def batch(**changes):
    config = dataclasses.replace(TINY, **changes)
    plans = [vlm.plan(config, [5, 6], [7, 8, 9], [10]), vlm.plan(config, [5, 6], [7], [10, 11])]
    return config, vlm.stacked(plans)


def test_sequence_learns_the_answer_and_nothing_else():
    config, sequence = batch()
    learnt = sequence.labels != IGNORED
    np.testing.assert_array_equal(learnt.sum(1), [1 + 3 + 1, 2 + 3 + 1])
    assert (sequence.labels[learnt] == sequence.ids[learnt]).all()
    assert (sequence.kind[learnt] == vlm.TEXT).all()
    assert sequence.ids[0][learnt[0]].tolist() == [10, 53, 54, 55, config.eos]
    question = vlm.plan(TINY, [5], [7], [10, 11], edit=False)
    assert not (question.ids >= TINY.img_0).any()
    assert (question.labels != IGNORED).sum() == 3


@pytest.mark.parametrize("order", vlm.ORDERS)
def test_sequence_has_its_parts_in_the_configs_order(order):
    _, sequence = batch(token_order=order)
    picture = np.argmax(sequence.kind[0] == IMAGE)
    request = np.argmax(sequence.ids[0] == 7)
    assert (picture < request) == (order == "image_regions_text")
    with pytest.raises(ValueError, match="expected token_order in"):
        batch(token_order="eq4")


def test_sequence_hides_padding_and_empty_places():
    _, sequence = batch()
    regions = jnp.asarray([[True, True, False, False, False], [False] * 5])
    visible = np.asarray(vlm.visible(sequence, regions))
    assert not visible[sequence.kind == PADDING].any()
    assert visible[sequence.kind == vlm.TEXT].all()
    assert visible[sequence.kind == IMAGE].all()
    np.testing.assert_array_equal(visible[0][sequence.kind[0] == REGION], regions[0])
    assert not visible[1][sequence.kind[1] == REGION].any()


def test_sequence_puts_tokens_in_their_places():
    _, sequence = batch()
    text, image = jnp.ones((2, 32, 1)), 10.0 + jnp.arange(4.0)[None, :, None] + jnp.zeros((2, 1, 1))
    regions = 20.0 + jnp.arange(5.0)[None, :, None] + jnp.zeros((2, 1, 1))
    visible = vlm.visible(sequence, jnp.asarray([[True, False, True, False, False]] * 2))
    x = np.asarray(vlm.embedded(sequence, text, image, regions, visible))[..., 0]
    for row, kind in zip(x, sequence.kind, strict=True):
        assert row[kind == IMAGE].tolist() == [10, 11, 12, 13]
        assert row[kind == REGION].tolist() == [20, 0, 22, 0, 0]
        assert set(row[kind == PADDING]) == {0}


def test_read_out_takes_the_states_where_img_tokens_are_the_input():
    config, sequence = batch()
    question = vlm.plan(config, [5], [7], [10], edit=False)
    sequence = vlm.stacked([*(vlm.plan(config, [5, 6], [7, 8], [10]),), question])
    states = jnp.arange(32.0)[None, :, None] + jnp.zeros((2, 1, 1))
    tokens, there = vlm.read_out(config, sequence, states)
    first = int(np.argmax(sequence.ids[0] == config.img_0))
    assert tokens[0, :, 0].tolist() == [first, first + 1, first + 2]
    assert there.tolist() == [[True] * 3, [False] * 3]
    before, labels, there = vlm.answers(config, sequence, states)
    assert labels[0][there[0]].tolist() == [10, 53, 54, 55, config.eos]
    assert before[0, :5, 0].tolist() == [first - 2, first - 1, first, first + 1, first + 2]
    assert there.sum(1).tolist() == [5, 2]


def test_img_states_do_not_depend_on_padding_or_on_places_that_stay_empty():
    """Two regions: in two places, in five, and in five of a longer sequence."""
    width, rng = 16, np.random.default_rng(0)
    llama = build(dataclasses.replace(TINY_LLAMA, vocab_size=50, new_tokens=6))
    image, regions = jnp.asarray(rng.standard_normal((2, 1, 5, width)), jnp.float32)
    found = []
    for slots, length in ((2, 29), (5, 32), (5, 48)):
        config = dataclasses.replace(TINY, region_slots=slots, max_length=length)
        sequence = vlm.stacked([vlm.plan(config, [5, 6], [7, 8, 9], [10])])
        mask = vlm.visible(sequence, jnp.arange(slots)[None] < 2)
        text = llama.embed(jnp.asarray(sequence.ids))
        x = vlm.embedded(sequence, text, image[:, :4], regions[:, :slots], mask)
        states, there = vlm.read_out(config, sequence, run(llama, x, mask))
        assert there.all()
        found.append(states)
    assert error(found[1], found[0]) <= 1e-5
    assert error(found[2], found[0]) <= 1e-5


def test_sequence_takes_an_empty_instruction():
    empty = vlm.plan(TINY, [5, 6], [], [10])
    assert (empty.kind != PADDING).sum() == (
        vlm.plan(TINY, [5, 6], [7], [10]).kind != PADDING
    ).sum() - 1


def test_sequence_refuses_what_has_no_room():
    room = 32 - (1 + 2 + 1 + 4 + 5 + 1) - (1 + 3 + 1)
    vlm.plan(TINY, [5, 6], [7] * room, [10])
    with pytest.raises(ValueError, match=f"at most {room} tokens of instruction, got {room + 1}"):
        vlm.plan(TINY, [5, 6], [7] * (room + 1), [10])
    with pytest.raises(ValueError, match=r"answer of at most 8 tokens.*got 9"):
        vlm.plan(TINY, [5], [7], [10] * 5)
