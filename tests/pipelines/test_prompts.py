"""Weights, learnt words and other programs' marks in prompts."""

import jax.numpy as jnp
import numpy as np
import pytest

from brushjax.data.text import Tokenizer
from brushjax.models.encoders.clip import CLIPText, CLIPTextConfig
from brushjax.pipelines.bases import learnt_words
from brushjax.pipelines.prompts import Piece, parse, taken_as_words, warn_of_marks
from brushjax.pipelines.text import Encoder, TextEncoders
from brushjax.weights import WeightsError
from tests.inference.conftest import filled

SMALL = CLIPTextConfig(
    vocab_size=600,
    hidden_size=8,
    intermediate_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    bos_token_id=598,
    eos_token_id=2,  # as old configs have it: the end is the highest id
    architectures=("CLIPTextModelWithProjection",),
    projection_dim=6,
)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a cat", [("a cat", 1)]),
        ("a (red:1.4) cat", [("a ", 1), ("red", 1.4), (" cat", 1)]),
        ("a (red) cat", [("a ", 1), ("red", 1.1), (" cat", 1)]),
        ("((red))", [("red", 1.21)]),
        ("[red]", [("red", 1 / 1.1)]),
        ("(a (red:2) cat:.5)", [("a ", 0.5), ("red", 1), (" cat", 0.5)]),
        (r"a \(red\) \[cat\]", [("a (red) [cat]", 1)]),
        ("time: 3:15", [("time: 3:15", 1)]),
        ("red:1.4) cat", [("red:1.4) cat", 1)]),
        ("a ) cat ]", [("a ) cat ]", 1)]),
        ("a (red cat", [("a ", 1), ("red cat", 1.1)]),
        ("(red: 0) cat", [("red", 0), (" cat", 1)]),
        ("", []),
    ],
)
def test_prompt_weights_are_read_as_web_programs_read_them(prompt, expected):
    pieces = parse(prompt)
    assert [piece.text for piece in pieces] == [text for text, _ in expected]
    np.testing.assert_allclose([piece.weight for piece in pieces], [w for _, w in expected])
    assert parse("plain words") == [Piece("plain words")]


@pytest.mark.parametrize(
    ("prompt", "marks"),
    [
        ("a (red:1.4) flower", ["(red:1.4)"]),
        ("a ((red)) [blurry] flower", ["((red))", "[blurry]"]),
        ("<my-style> flower", ["<my-style>"]),
        ("embedding:easynegative, dog", ["embedding:easynegative"]),
        ("<lora:style:0.8> a flower", ["<lora:style:0.8>"]),
        ("a cat (black) at 3:15 <3 & 2 > 1", []),
    ],
)
def test_marks_of_other_programs_are_named_once(prompt, marks):
    assert taken_as_words(prompt, False, ()) == marks
    told: set[str] = set()
    if marks:
        with pytest.warns(UserWarning, match=r"in a prompt: taken as words.*weights=True"):
            warn_of_marks([prompt], False, (), told)
    warn_of_marks([prompt, "a cat"], False, (), told)  # warnings are errors here
    called = [mark for mark in marks if mark[0] in "<e"]
    assert taken_as_words(prompt, True, ()) == called
    assert taken_as_words(prompt, True, ("<my-style>", "easynegative", "<lora:style:0.8>")) == []


@pytest.fixture(scope="module")
def encoder(tokenizer_folder):
    return filled(CLIPText, SMALL, 0), Tokenizer.load(tokenizer_folder)


def test_weight_moves_its_tokens_from_the_empty_prompts_state(encoder):
    encode = TextEncoders(Encoder.of(*encoder))
    plain = encode(["a red cat", ""]).context
    moved = encode(["a (red:1.5) cat", ""], weights=True).context
    empty = encode([""]).context[0]
    np.testing.assert_array_equal(moved[1], plain[1])
    changed = np.flatnonzero(np.abs(moved[0] - plain[0]).max(axis=1) > 0)
    count = len(encoder[1].ids("red"))
    np.testing.assert_array_equal(changed, 2 + np.arange(count))  # start, a, red
    expected = empty + 1.5 * (plain[0] - empty)
    np.testing.assert_allclose(moved[0, changed], expected[changed], atol=1e-6)
    gone = encode(["a (red:0) cat"], weights=True).context[0]
    np.testing.assert_allclose(gone[changed], empty[changed], atol=1e-6)
    same = encode(["(a red cat:1)"], weights=True).context
    np.testing.assert_array_equal(same, plain[:1])
    long = encode(["red " * 80 + "(cat:1.5)"], weights=True).context  # in the second row
    words = encode(["red " * 80 + "cat"]).context
    assert (np.abs(long - words).max(axis=2) > 0).nonzero()[1].min() > 77


def test_learnt_word_stands_for_its_vectors(encoder):
    model, tokenizer = encoder
    table = np.asarray(model.text_model.embeddings.token_embedding.embedding[...])
    cat, red = tokenizer.ids("cat"), tokenizer.ids("red")
    vectors = table[[*red, *cat]]  # so that the word means "red cat"
    learnt = learnt_words({"my-cat": {"": vectors}}, {"clip_text": model})["clip_text"]
    encode = TextEncoders(Encoder.of(model, tokenizer, learnt))
    assert encode.learnt == {"my-cat"}
    expected = TextEncoders(Encoder.of(model, tokenizer))(["a red cat on a chair"])
    for prompt in ("a my-cat on a chair", "a embedding:my-cat on a chair"):
        np.testing.assert_allclose(encode([prompt]).context, expected.context, atol=1e-6)
    output = encode.encoders[0]
    assert len(output.params["text_model"]["embeddings"]["token_embedding"]["embedding"]) > 600
    other = encode(["a my-cats"]).context  # a longer word is another word
    plain = TextEncoders(Encoder.of(model, tokenizer))(["a my-cats"]).context
    np.testing.assert_allclose(other, plain, atol=1e-6)
    np.testing.assert_allclose(
        encode(["(my-cat:1)"], weights=True).context, encode(["my-cat"]).context
    )


def test_learnt_words_leave_the_pooled_text_at_the_prompts_end(encoder):
    """Old configs find the end as the highest id, which a learnt word's would be."""
    model, tokenizer = encoder
    table = np.asarray(model.text_model.embeddings.token_embedding.embedding[...])
    learnt = {"it": table[[*tokenizer.ids("red")]]}
    plain, more = Encoder.of(model, tokenizer), Encoder.of(model, tokenizer, learnt)
    features = TextEncoders(more, more)(["it cat"])
    expected = TextEncoders(plain, plain)(["red cat"])
    np.testing.assert_allclose(features.pooled, expected.pooled, atol=1e-6)


def test_embedding_for_another_family_is_refused(encoder):
    model = encoder[0]
    two = {"clip_text": model, "clip_text_2": model}
    eight, nine = np.ones((2, 8), np.float32), np.ones((1, 9), np.float32)
    words = learnt_words({"a": {"clip_text": eight, "clip_text_2": eight}}, two)
    assert words["clip_text_2"]["a"].shape == (2, 8)
    assert learnt_words({"a": {"clip_text": eight}}, two)["clip_text_2"]["a"].shape == (0, 8)
    for read, encoders in (
        ({"": nine}, two),
        ({"clip_text": eight, "clip_text_2": eight}, {"clip_text": model}),
        ({"clip_text": eight, "clip_text_2": nine}, two),
    ):
        with pytest.raises(WeightsError, match=r"embedding of 'a' is for another family.*got"):
            learnt_words({"a": read}, encoders)


def test_weights_and_learnt_words_need_a_tokenizer_of_words(encoder):
    model, tokenizer = encoder
    with pytest.raises(ValueError, match="expected a tokenizer folder for learnt words"):
        Encoder.of(model, lambda prompts: tokenizer(prompts), {"it": np.ones((1, 8), np.float32)})
    with pytest.raises(ValueError, match="expected a tokenizer folder for weights=True"):
        TextEncoders(Encoder.of(model, lambda prompts: tokenizer(prompts)))(["a"], weights=True)


def test_clip_skip_reads_an_earlier_layer_through_the_final_norm(encoder):
    model, tokenizer = encoder
    one, two = (TextEncoders(*[Encoder.of(*encoder)] * count) for count in (1, 2))
    ids = tokenizer.rows([tokenizer.ids("a red cat")], 1)[:, 0]
    output = model(jnp.asarray(ids))
    expected = model.text_model.final_layer_norm(output.hidden_states[-2])
    skipped = one(["a red cat"], clip_skip=2).context
    np.testing.assert_allclose(skipped, expected, atol=1e-5)
    np.testing.assert_array_equal(one(["a cat"], clip_skip=1).context, one(["a cat"]).context)
    # Of two encoders the last but one is read anyway, without the norm.
    np.testing.assert_array_equal(two(["a cat"], clip_skip=2).context, two(["a cat"]).context)
    with pytest.raises(ValueError, match=r"expected clip_skip in 1\.\.2.*got 3"):
        two(["a cat"], clip_skip=3)
