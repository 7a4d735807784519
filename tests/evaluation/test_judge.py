"""A judge behind an endpoint, from the command's requests to its answers' scores."""

import base64
import io
import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from brushjax.agents.endpoint import Endpoint, EndpointError
from brushjax.evaluation.command import main as evaluate
from brushjax.evaluation.judging.ask import JudgeArguments, Pace, judge
from brushjax.evaluation.judging.ask import main as ask
from brushjax.evaluation.records import BenchmarkError
from tests.evaluation.benchmarks import edit_miniatures as miniatures
from tests.local_server import LocalServer, chat

SAID = "Compliance: 5\nNaturalness: 4\nIntegrity: 4"
CONFIG = """from brushjax.evaluation.benchmarks.judged.imgedit import ImgEdit
from brushjax.evaluation.methods.baselines import Copy
from brushjax.evaluation.sweep import Sweep


def get_config():
    return Sweep((ImgEdit({folder!r}),), (Copy(),))
"""


class Server(LocalServer):
    """A judge that says what was recorded, and keeps what it was asked."""

    def __init__(self):
        super().__init__()
        self.bodies, self.keys, self.asked = [], [], Counter()
        self.reply = lambda times: (200, SAID, "stop")

    def respond(self, headers, body):
        content = json.dumps(body["messages"])
        self.asked[content] += 1
        self.bodies.append(body)
        self.keys.append(headers["Authorization"])
        status, text, finish = self.reply(self.asked[content])
        return status, chat(text, finish), {"Retry-After": "7"} if status == 429 else {}


@pytest.fixture
def server():
    made = Server()
    yield made
    made.close()


@pytest.fixture
def requested(tmp_path, server):
    """A config whose benchmark wants a judge, after --judge-requests; the judge's options."""
    config = tmp_path / "config.py"
    config.write_text(CONFIG.format(folder=str(miniatures.imgedit(tmp_path / "data"))))
    asked = tmp_path / "ask.jsonl"
    evaluate([str(config), "--out", str(tmp_path / "out"), "--judge-requests", str(asked)])
    return config, JudgeArguments(asked, tmp_path / "said.jsonl", "judge-1", server.url, 2)


def endpoint(options, waits=None):
    sleep = (lambda _: None) if waits is None else waits.append
    return Endpoint(options.model, options.url, key="secret", sleep=sleep, timeout=20, tries=2)


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_requests_flag_writes_the_questions_and_makes_no_report(requested, tmp_path, capsys):
    config, options = requested
    written = rows(options.requests)
    assert written
    capsys.readouterr()
    assert not (tmp_path / "out/report.html").exists()
    evaluate(
        [str(config), "--out", str(tmp_path / "out"), "--judge-requests", str(options.requests)]
    )
    assert f"{len(written)} requests: {options.requests}" in capsys.readouterr().out
    assert rows(options.requests) == written  # the same pictures are the same requests


def test_answers_flag_scores_what_the_judge_said(requested, tmp_path, monkeypatch, capsys):
    config, options = requested
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    ask([
        *("--requests", str(options.requests), "--answers", str(options.answers)),
        *("--model", options.model, "--url", options.url),
    ])  # fmt: skip
    asked = len(rows(options.requests))
    assert f"{asked} answered, 0 missing, 0 refused" in capsys.readouterr().out
    out = tmp_path / "out"
    evaluate([str(config), "--out", str(out), "--judge-answers", str(options.answers)])
    printed = capsys.readouterr().out
    assert "judge_mean" in printed
    summary = json.loads((out / "summary.json").read_text())
    (means,) = (one["copy"] for one in summary["means"].values())
    (found,) = [value for name, value in means.items() if name.startswith("clean/judge_mean")]
    (name,) = [name for name in means if name.startswith("clean/judge_mean")]
    assert found["value"] == pytest.approx(13 / 3)
    assert "judge-1" in name
    assert "prompts " in name


def test_judge_is_shown_prompt_and_pictures_without_loss(requested, server):
    _, options = requested
    judge(options, endpoint(options))
    first = rows(options.requests)[0]
    sent = [body["messages"][0]["content"] for body in server.bodies]
    (mine,) = [one for one in sent if one[0]["text"] == first["prompt"]][:1]
    assert len(mine) == 1 + len(first["pictures"])
    for part, shown in zip(mine[1:], first["pictures"], strict=True):
        data = base64.b64decode(part["image_url"]["url"].removeprefix("data:image/png;base64,"))
        with Image.open(options.requests.parent / shown["file"]) as file:
            np.testing.assert_array_equal(Image.open(io.BytesIO(data)), np.asarray(file))
    assert set(server.keys) == {"Bearer secret"}
    assert all("response_format" not in body for body in server.bodies)


def test_judge_asks_for_what_is_missing_alone(requested, server):
    _, options = requested
    count = len(rows(options.requests))
    server.reply = lambda times: (400, "no", "stop")
    with pytest.raises(EndpointError, match=rf"{count} of {count} requests have no reply.*again"):
        judge(options, endpoint(options))
    assert rows(options.answers) == []
    server.reply = lambda times: (200, SAID, "stop")
    assert judge(options, endpoint(options)) == {"answered": count, "missing": 0, "refused": 0}
    before = sum(server.asked.values())
    judge(options, endpoint(options))
    assert sum(server.asked.values()) == before
    options.answers.unlink()  # as if it had been killed before the list was written
    judge(options, endpoint(options))
    assert len(rows(options.answers)) == count
    assert "secret" not in options.answers.read_text()


def test_judge_waits_as_the_server_asks(requested, server):
    _, options = requested
    waits = []
    server.reply = lambda times: (429, "", "stop") if times == 1 else (200, SAID, "stop")
    counts = judge(options, endpoint(options, waits))
    assert counts["missing"] == 0
    assert set(waits) == {7.0}


def test_cut_replies_are_refusals_and_no_answers(requested, server):
    _, options = requested
    server.reply = lambda times: (200, SAID, "length")
    counts = judge(options, endpoint(options))
    assert counts["refused"] == len(rows(options.requests))
    assert rows(options.answers) == []


def test_pace_begins_no_more_than_so_many_in_a_minute():
    now, begun = [0.0], []

    def sleep(seconds):
        now[0] += seconds

    pace = Pace(30, sleep, lambda: now[0])
    for _ in range(61):
        pace.wait()
        begun.append(now[0])
    assert begun[:3] == [0.0, 2.0, 4.0]
    assert begun[-1] == pytest.approx(120)
    free = Pace(0, lambda _: pytest.fail("nothing to wait for"), lambda: 0.0)
    free.wait()
    free.wait()


def test_files_that_are_no_requests_are_refused(tmp_path):
    file = tmp_path / "ask.jsonl"
    file.write_text('{"id": "a"}\n')
    with pytest.raises(BenchmarkError, match="line 1 lacks one"):
        judge(JudgeArguments(file, tmp_path / "said.jsonl", "m"), Endpoint("m", key=""))
