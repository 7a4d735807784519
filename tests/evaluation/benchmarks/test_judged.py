"""Benchmarks with judges: read as published, asked by file, scored by their own formulas."""

import json
import math

import numpy as np
import pytest

from brushjax.evaluation.benchmarks.judged import gedit, i2ebench, imgedit, kris, risebench
from brushjax.evaluation.judging.answers import Answers
from brushjax.evaluation.methods.baselines import Copy
from brushjax.evaluation.records import BenchmarkError
from brushjax.evaluation.results import Shown
from brushjax.evaluation.sweep import Run, Sweep
from tests.evaluation.benchmarks import edit_miniatures as miniatures
from tests.evaluation.benchmarks.faults import cell, changed, cut, gone

BENCHMARKS = {
    "gedit": gedit.GEditBench,
    "imgedit": imgedit.ImgEdit,
    "kris": kris.KrisBench,
    "risebench": risebench.RiseBench,
    "i2ebench": i2ebench.I2EBench,
}
TASKS = ("Counting", "Deblurring", "RegionAccuracy")


def benchmark_of(name, folder):
    folder = str(getattr(miniatures, name)(folder))
    return BENCHMARKS[name](folder, **({"tasks": TASKS} if name == "i2ebench" else {}))


def run(benchmark, out, **fields):
    sweep = Sweep((benchmark,), (Copy(),), shown=Shown(0, 1), **fields)
    return Run(sweep, out, devices=[None], progress=False)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_requests_hold_every_question_and_its_pictures(tmp_path, name):
    benchmark = benchmark_of(name, tmp_path / "data")
    sweep = run(benchmark, tmp_path / "out")
    sweep.all(("plan", "generate"))
    count = sweep.write_requests(tmp_path / "ask.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "ask.jsonl").read_text().splitlines()]
    asked = [q for record in benchmark.records() for q in benchmark.judging.questions(record)]
    assert count == len(rows) == len(asked) == len({row["id"] for row in rows})
    for row, question in zip(rows, asked, strict=True):
        assert row["prompt"] == question.prompt
        assert "{" not in row["prompt"].replace('{"', "")  # every place is filled in
        for shown in row["pictures"]:
            assert (tmp_path / shown["file"]).is_file()


ANSWERS = {
    "gedit": {
        "semantics": 'Sure: {"score": [8, 6], "reasoning": "a {small} thing"}',
        "quality": '{"score": [9, 4], "reasoning": ""}',
    },
    "imgedit": {"rubric": "Well done.\nCompliance: 5\nNaturalness: 4\nIntegrity: 4"},
    "kris": {
        name: f'```json\n{{"{name}_score": {n}, "reasoning": "x"}}```'
        for n, name in enumerate(kris.PROMPTS, 2)
    },
    "risebench": {
        "consistency": "Kept. **Final Score:** 4",
        "reasoning": "Final Score: 5",
        "quality": "Final Score: 3",
    },
    "i2ebench": {"answer": "There are two cats."},
}


def answered(tmp_path, name, answers, model="judge-1"):
    """The sweep after a judge gave each question its answer; None leaves it unanswered."""
    benchmark = benchmark_of(name, tmp_path / "data")
    sweep = run(benchmark, tmp_path / "out")
    sweep.all(("plan", "generate"))
    sweep.write_requests(tmp_path / "ask.jsonl")
    asked = [json.loads(line) for line in (tmp_path / "ask.jsonl").read_text().splitlines()]
    rows = [
        {"id": row["id"], "model": model, "answer": answers[row["question"]]}
        for row in asked
        if answers[row["question"]] is not None
    ]
    miniatures.lines(tmp_path / "said.jsonl", rows)
    return run(benchmark, tmp_path / "out", judge_answers=str(tmp_path / "said.jsonl")).all()


def values(report, name):
    """A metric's values by sample; its id holds the model and the prompts' digest."""
    (metric,) = {
        one.id: one
        for one in report.scored.metrics[next(iter(report.scored.metrics))]
        if f"{one.profile}/{one.name}" == name
    }.values()
    assert "judge-1" in metric.id
    assert "prompts " in metric.id
    return {row["sample"]: row[metric.id] for row in report.scored.rows}


def test_gedit_scores_are_the_root_of_the_least_scores_product(tmp_path):
    report = answered(tmp_path, "gedit", ANSWERS["gedit"])
    assert set(values(report, "paper:gedit/overall").values()) == {math.sqrt(6 * 4)}
    assert set(values(report, "paper:gedit/semantics").values()) == {6}


def test_imgedit_scores_are_the_mean_of_three_rounded_by_the_script(tmp_path):
    report = answered(tmp_path, "imgedit", ANSWERS["imgedit"])
    assert set(values(report, "clean/judge_mean").values()) == {13 / 3}
    assert set(values(report, "paper:imgedit/overall").values()) == {4.33}


def test_kris_scores_are_up_to_four_and_their_mean(tmp_path):
    report = answered(tmp_path, "kris", ANSWERS["kris"])
    mean = values(report, "clean/judge_mean")
    assert mean == {"abstract_reasoning/1": (2 + 3 + 4 + 5) / 4, "color_change/1": 3}
    knowledge = values(report, "clean/judge_knowledge")
    assert knowledge["abstract_reasoning/1"] == 5
    assert np.isnan(knowledge["color_change/1"])


def test_risebench_weights_depend_on_what_is_asked(tmp_path):
    report = answered(tmp_path, "risebench", ANSWERS["risebench"])
    expected = {
        "t_1": 0.3 * 4 + 0.5 * 5 + 0.2 * 3,
        "l_1": 0.3 * 4 + 0.7 * 5,
        "c_1": 0.8 * 5 + 0.2 * 3,
    }
    for name in ("clean/judge_weighted", "paper:risebench/score"):
        assert values(report, name) == pytest.approx(expected)


def test_risebench_script_halves_what_is_wrong_and_never_completes_without_consistency():
    wrong = {"consistency": (5.0,), "reasoning": (1.0,), "quality": (5.0,)}
    assert risebench.weighted(wrong) == pytest.approx(3)
    assert risebench.halved(wrong) == pytest.approx(1.5)
    free = {"reasoning": (5.0,), "quality": (5.0,)}
    assert (risebench.complete(free), risebench.complete_as_script(free)) == (1, 0)


def test_i2ebench_answers_are_right_or_wrong_where_a_question_is_asked(tmp_path):
    report = answered(tmp_path, "i2ebench", ANSWERS["i2ebench"])
    right = values(report, "clean/judge_right")
    assert right["Counting/1"] == 1
    assert np.isnan(right["Deblurring/1"])


@pytest.mark.parametrize(
    ("expected", "said", "right"),
    [
        ("Yes", "Yes, it is.", 1),
        ("Yes", "No, though one may say yes.", 0),
        ("2", "I see three of them", 0),
        ("2", "I cannot tell", None),
        ("left", "It is on the left side.", 1),
        ("left", "On the right.", 0),
    ],
)
def test_i2ebench_reads_the_first_answer_of_its_kind(expected, said, right):
    question = i2ebench.Question("answer", "?", ("result",), expected)
    found = i2ebench.read_match(question, said)
    assert found == (None if right is None else (right,))


@pytest.mark.parametrize("name", BENCHMARKS)
def test_answers_that_cannot_be_read_are_counted_and_in_no_clean_mean(tmp_path, name):
    answers = dict.fromkeys(ANSWERS[name], "I would rather not say.")
    report = answered(tmp_path, name, answers)
    unparsed = [v for v in values(report, "clean/judge_unparsed").values() if not np.isnan(v)]
    # An I2EBench question is of its own kind; all the others want numbers.
    assert unparsed
    assert set(unparsed) == {1}
    assert "of the judge's answers can't be read" in "\n".join(map(str, report.findings))
    for score in BENCHMARKS[name].judging.scores:
        assert all(np.isnan(v) for v in values(report, f"{score.profile}/{score.name}").values())


def test_missing_answers_are_counted(tmp_path):
    report = answered(tmp_path, "gedit", {**ANSWERS["gedit"], "quality": None})
    assert set(values(report, "clean/judge_unanswered").values()) == {0.5}
    assert all(np.isnan(v) for v in values(report, "paper:gedit/overall").values())
    assert "50.0% of the judge's answers are missing" in "\n".join(map(str, report.findings))


def test_scripts_take_what_a_clean_reading_refuses():
    question = kris.Question("quality", "?")
    assert kris.read_strictly(question, "I give it a 4") is None
    assert kris.read_as_script(question, "I give it a 4") == (4,)
    two = "Compliance: 5\nNaturalness: 4"
    assert imgedit.read_three(question, two) is None
    assert imgedit.read_lines_of(question, two) == (5, 4)
    assert imgedit.read_three(question, "A: 5\nB: 4\nC: 9") is None  # out of range
    assert gedit.read_pair(question, '{"score": [11, 4]}') is None
    assert risebench.read_final(question, "Final Score: 7") is None


def test_answers_of_other_pictures_or_prompts_count_as_missing(tmp_path):
    benchmark = benchmark_of("imgedit", tmp_path / "data")
    miniatures.lines(tmp_path / "said.jsonl", [{"id": "other", "model": "judge-1", "answer": "5"}])
    report = run(benchmark, tmp_path / "out", judge_answers=str(tmp_path / "said.jsonl")).all()
    assert set(values(report, "clean/judge_unanswered").values()) == {1}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "no line at all"),
        ([{"id": "a", "answer": "x"}], "not in line 1"),
        ([{"id": "a", "model": "m", "answer": 5}], "not in line 1"),
        (
            [{"id": "a", "model": "m", "answer": "x"}, {"id": "b", "model": "n", "answer": "x"}],
            "one model",
        ),
        (
            [{"id": "a", "model": "m", "answer": "x"}, {"id": "a", "model": "m", "answer": "y"}],
            "two answers to the request a",
        ),
    ],
)
def test_files_of_answers_that_cannot_be_trusted_are_refused(tmp_path, rows, message):
    miniatures.lines(tmp_path / "said.jsonl", rows)
    with pytest.raises(BenchmarkError, match=message):
        Answers.load(tmp_path / "said.jsonl")


BASIC, KRIS, RISE = "basic_edit.json", "color_change/annotation.json", "datav2_total_w_subtask.json"
TABLE = "train-00000-of-00001.parquet"
FAULTS = [
    ("gedit", TABLE, gone, "expected train-"),
    ("gedit", TABLE, cut, "no complete Parquet file"),
    ("gedit", TABLE, cell(instruction=None), "lacks the columns"),
    ("gedit", TABLE, cell(instruction=" "), "k0en: expected a text"),
    ("gedit", TABLE, cell(input_image={"bytes": None, "path": "x"}), "k0en: .*bytes are missing"),
    ("gedit", TABLE, cell(input_image={"bytes": b"x", "path": "x"}), "k0en: .*no complete picture"),
    ("imgedit", BASIC, gone, "expected .*basic_edit.json; docs"),
    ("imgedit", BASIC, cut, "no complete JSON"),
    ("imgedit", BASIC, changed("7", prompt=None), "7: lacks 'prompt'"),
    ("imgedit", BASIC, changed("7", prompt=" "), "7: the prompt is empty"),
    ("imgedit", "style/1.png", gone, "7: .*is missing"),
    ("imgedit", "style/1.png", cut, "7: .*no complete picture"),
    ("kris", KRIS, cut, "no complete JSON"),
    ("kris", KRIS, changed("1", ins_en=None), "color_change/1: lacks 'ins_en'"),
    ("kris", KRIS, changed("1", ins_en=""), "color_change/1: the instruction is empty"),
    ("kris", KRIS, changed("1", ori_img="../../x.png"), "color_change/1: "),
    ("kris", "color_change/1.jpg", gone, "color_change/1: .*is missing"),
    ("kris", "color_change/1.jpg", cut, "color_change/1: .*no complete picture"),
    ("risebench", RISE, gone, "expected .*json; docs"),
    ("risebench", RISE, cut, "no complete JSON"),
    ("risebench", RISE, changed(0, category="magic"), "t_1: expected a category"),
    ("risebench", RISE, changed(0, reference=None), "t_1: there is no reference"),
    ("risebench", RISE, changed(0, instruction=None), "t_1: lacks 'instruction'"),
    ("risebench", "r.png", gone, "l_1: .*is missing"),
    ("i2ebench", "Counting/Counting.json", gone, "expected .*Counting.json; docs"),
    ("i2ebench", "Counting/Counting.json", cut, "no complete JSON"),
    ("i2ebench", "Counting/Counting.json", changed("1", Answer=None), "Counting/1: lacks 'Answer'"),
    ("i2ebench", "Counting/Counting.json", changed("1", ori_exp=None), "Counting/1: lacks 'ori_e"),
    ("i2ebench", "Deblurring/gt/0001.jpg", gone, "Deblurring/1: .*is missing"),
    ("i2ebench", "RegionAccuracy/mask/0001.png", gone, "RegionAccuracy/0: .*is missing"),
]


@pytest.mark.parametrize(("name", "file", "fault", "message"), FAULTS)
def test_faults_of_the_published_files_are_named(tmp_path, name, file, fault, message):
    benchmark = benchmark_of(name, tmp_path)
    assert benchmark.records()
    fault(tmp_path / file)
    with pytest.raises(BenchmarkError, match=message):
        benchmark.records()


def test_gedit_splits_languages_and_the_intersection(tmp_path):
    folder = str(miniatures.gedit(tmp_path))
    both = [gedit.GEditBench(folder, language).records() for language in ("en", "cn")]
    assert [[one.instruction for one in side] for side in both] == [
        ["en 0", "en 1"],
        ["cn 0", "cn 1"],
    ]
    (only,) = gedit.GEditBench(folder, intersection=True).records()
    assert only.results == ("fullset/color_alter/en/k0en",)


def test_edits_of_several_pictures_are_left_out(tmp_path):
    records = kris.KrisBench(str(miniatures.kris(tmp_path))).records()
    assert [one.id for one in records] == ["abstract_reasoning/1", "color_change/1"]


def test_pictures_to_compare_with_are_shown_to_the_judge_alone(tmp_path):
    benchmark = benchmark_of("risebench", tmp_path)
    record = {one.id: one for one in benchmark.records()}["l_1"]
    questions = benchmark.judging.questions(record)
    assert [one.pictures for one in questions] == [("reference", "result")] * 2
    assert record.read().truth is None
