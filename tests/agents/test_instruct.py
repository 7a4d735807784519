"""Instructions by an endpoint: nothing lost, nothing doubled, nothing asked twice."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest

from brushjax.agents import instruct as module
from brushjax.agents.endpoint import Endpoint, EndpointError
from brushjax.agents.instruct import InstructArguments, instruct, main
from brushjax.data.sets.region_edits import RegionEdits
from tests.local_server import LocalServer, chat

COUNT = 12


def good(caption):
    reply = {"category": "local", "instruction": f"change {caption}", "target_caption": "a dog"}
    return json.dumps(reply)


class Server(LocalServer):
    """Answers by what a caption says, and counts what was asked."""

    def __init__(self):
        super().__init__()
        self.asked = Counter()
        self.pause = 0.0
        self.answer = lambda caption, times: (200, good(caption))

    def respond(self, headers, body):
        user = body["messages"][1]["content"][0]["text"]
        caption = user.splitlines()[0].removeprefix("Caption: ")
        self.asked[caption] += 1
        time.sleep(self.pause)
        status, content = self.answer(caption, self.asked[caption])
        return status, chat(content)


@pytest.fixture
def server():
    made = Server()
    yield made
    made.close()


@pytest.fixture
def options(server, tmp_path):
    rows = [{"image": f"{n}.png", "caption": f"thing {n}"} for n in range(COUNT)]
    file = tmp_path / "captions.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in [*rows, rows[0]]))
    return InstructArguments(file, tmp_path / "out", "m", server.url, workers=3)


def endpoint(options):
    return Endpoint(options.model, options.url, key="", sleep=lambda _: None, timeout=20)


def edits(options):
    lines = (options.out / "edits.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_instruct_makes_a_record_of_every_picture_in_order(server, options):
    counts = instruct(options, endpoint(options))
    assert counts == {"edits": COUNT, "rejected": 0}
    found = edits(options)
    assert [row["image"] for row in found] == [f"{n}.png" for n in range(COUNT)]
    assert found[3] == {
        "image": "3.png",
        "source_caption": "thing 3",
        "category": "local",
        "instruction": "change thing 3",
        "target_caption": "a dog",
        "model": "m",
        "prompt_version": module.PROMPT_VERSION,
    }
    assert set(server.asked.values()) == {1}  # the picture that is listed twice as well
    instruct(options, endpoint(options))
    assert set(server.asked.values()) == {1}


def test_instruct_needs_a_donor_before_a_run_reads_it(server, options):
    from brushjax.config import ConfigError

    instruct(options, endpoint(options))
    with pytest.raises(ConfigError, match="got no donor"):
        RegionEdits(str(options.out)).source(dict)


BAD = {
    "no JSON": "I would rather not",
    "malformed": good("x")[:-1],
    "a list": "[1]",
    "the caption again": json.dumps(
        {"category": "local", "instruction": "x", "target_caption": "Thing 0."}
    ),
    "another category": good("x").replace("local", "paint"),
    "numbers": good("x").replace('"a dog"', "3"),
    "too long": good("x").replace("a dog", "dog " * 100),
}


@pytest.mark.parametrize("name", BAD)
def test_instruct_asks_again_for_what_it_can_not_use(server, options, name):
    server.answer = lambda caption, times: (200, good(caption) if times > 1 else BAD[name])
    file = options.captions
    file.write_text(file.read_text().splitlines()[0] + "\n")
    assert instruct(options, endpoint(options)) == {"edits": 1, "rejected": 0}
    assert server.asked == {"thing 0": 2}


def test_instruct_rejects_what_stays_wrong_and_says_why(server, options):
    server.answer = lambda caption, times: (
        200,
        BAD["no JSON"] if caption == "thing 2" else good(caption),
    )
    assert instruct(options, endpoint(options)) == {"edits": COUNT - 1, "rejected": 1}
    (row,) = [json.loads(x) for x in (options.out / "rejected.jsonl").read_text().splitlines()]
    assert row["image"] == "2.png"
    assert "expected texts" in row["rejected"]
    assert server.asked["thing 2"] == options.tries
    instruct(options, endpoint(options))
    assert server.asked["thing 2"] == options.tries


def test_instruct_waits_for_a_busy_server_and_keeps_what_it_got(server, options):
    server.answer = lambda caption, times: (
        (429, "") if times == 1 else (503, "") if caption == "thing 5" else (200, good(caption))
    )
    with pytest.raises(EndpointError, match="1 of 12 pictures have no reply"):
        instruct(options, endpoint(options))
    assert len(edits(options)) == COUNT - 1
    server.answer = lambda caption, times: (200, good(caption))
    before = server.asked.copy()
    instruct(options, endpoint(options))
    assert server.asked - before == {"thing 5": 1}
    assert len(edits(options)) == COUNT


@pytest.mark.parametrize("moment", [0, 1, 5, COUNT - 1])
def test_instruct_ended_at_a_moment_goes_on_with_what_is_missing(
    server, options, moment, monkeypatch
):
    write, written = module.write_json, []

    def ends(place, value):
        if len(written) >= moment:
            raise KeyboardInterrupt
        written.append(place)
        write(place, value)

    alone = InstructArguments(options.captions, options.out, "m", options.url, workers=1)
    monkeypatch.setattr(module, "write_json", ends)
    with pytest.raises(KeyboardInterrupt):
        instruct(alone, endpoint(options))
    assert not (options.out / "edits.jsonl").exists()
    monkeypatch.setattr(module, "write_json", write)
    server.asked.clear()
    assert instruct(alone, endpoint(options))["edits"] == COUNT
    assert sum(server.asked.values()) == COUNT - len(written)
    assert len({row["image"] for row in edits(options)}) == COUNT


@pytest.mark.slow
def test_instruct_killed_at_ten_moments_loses_and_doubles_nothing(server, options):
    server.pause = 0.05
    command = [sys.executable, "-m", "brushjax", "instruct", f"--captions={options.captions}"]
    command += [f"--out={options.out}", "--model=m", f"--url={server.url}", "--workers=2"]
    replies, kept = options.out / "replies", set()
    for moment in range(10):
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=dict(os.environ))
        end = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < end:
            if replies.is_dir() and len(list(replies.glob("*.json"))) > moment:
                break
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
        now = {path.name: path.read_text() for path in replies.glob("*.json")}
        assert kept <= set(now)
        kept = set(now)
        assert all(json.loads(text)["instruction"] for text in now.values())
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    assert [row["image"] for row in edits(options)] == [f"{n}.png" for n in range(COUNT)]
    # A question that was under way when its process was killed, of two workers, is asked again.
    assert sum(server.asked.values()) <= COUNT + 2 * 10


def test_instruct_says_what_is_wrong_in_one_line(tmp_path):
    file = tmp_path / "captions.jsonl"
    file.write_text('{"image": "a.png"}\n')
    words = [f"--captions={file}", f"--out={tmp_path / 'out'}", "--url=http://127.0.0.1:1/v1"]
    with pytest.raises(SystemExit, match=r"captions\.jsonl:1: expected a JSON object") as caught:
        main(words)
    assert "\n" not in str(caught.value)
