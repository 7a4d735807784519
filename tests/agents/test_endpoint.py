"""An endpoint on this machine that answers from a list, well and badly."""

import json
import time

import numpy as np
import pytest

from brushjax.agents import EditPlan, NotUnderstood, instructor
from brushjax.agents.endpoint import Endpoint, EndpointError
from tests.local_server import LocalServer, chat

PICTURE = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
SECRET = "sk-verysecret-1234"
ROW = {"category": "local", "object": "dog", "source_caption": "a dog", "target_caption": "a cat"}


def text(**changes):
    return json.dumps(ROW | changes, ensure_ascii=False)


def spaces(times, seconds):
    """A reply that is a space every so often."""

    def write(connection):
        for _ in range(times):
            time.sleep(seconds)
            connection.write(b" ")
            connection.flush()

    return write


def ok(content, **more):
    return (200, chat(content, **more))


GOOD = {  # reply: (category, object)
    "plain": (text(), ("local", "dog")),
    "spaced": (f"\n\n  {text()}  \n", ("local", "dog")),
    "fenced": (f"```json\n{text()}\n```", ("local", "dog")),
    "fenced without a name": (f"```\n{text()}\n```", ("local", "dog")),
    "prose before": (f"Sure! Here is the plan: {text()}", ("local", "dog")),
    "prose around": (f"Of course. {text()} Tell me if {{that}} is right.", ("local", "dog")),
    "thinking before": (f'<think>maybe {{"a": 1}}</think>{text()}', ("local", "dog")),
    "corrected itself": (f"{text(object='cat')} No: {text()}", ("local", "dog")),
    "title case": (text(category="Local"), ("local", "dog")),
    "reference's word": (text(category="Remove"), ("removal", "dog")),
    "reference's addition": (text(category="Addition", object="hat"), ("addition", "hat")),
    "a synonym": (text(category="replace"), ("local", "dog")),
    "an article": (text(object="the red dog."), ("local", "red dog")),
    "global with an object": (text(category="global", object="image"), ("global", "")),
    "background": (text(category="background", object=""), ("background", "")),
    "null captions": (text(source_caption=None, target_caption=None), ("local", "dog")),
    "more fields": (text(confidence=0.9), ("local", "dog")),
    "another language": (text(object="Hund", target_caption="eine Katze"), ("local", "Hund")),
    "other letters": (text(object="собака", target_caption="кошка"), ("local", "собака")),
    "parts": ([{"type": "text", "text": text()}], ("local", "dog")),
    "a box": (text(category="addition", box=[1, 2, 8, 9]), ("addition", "dog")),
    "no box": (text(category="addition", box=None), ("addition", "dog")),
    "newlines in a caption": (text(target_caption="a\n cat"), ("local", "dog")),
}
BAD = {  # reply: what the one error says
    "prose alone": (ok("I would replace the dog."), "expected a JSON object"),
    "a refusal in words": (ok("I'm sorry, I can't help with that."), "expected a JSON object"),
    "a refusal": (ok(None, refusal="not allowed"), "the model refuses: not allowed"),
    "cut": (ok(text()[:40], finish="length"), "the reply is cut"),
    "unclosed": (ok(text()[:-1]), "expected a JSON object"),
    "single quotes": (ok(text().replace('"', "'")), "expected a JSON object"),
    "a list": (ok("[1, 2]"), "expected a JSON object"),
    "an object without category": (ok('{"object": "dog"}'), "expected a JSON object"),
    "thousands of brackets": (ok('{"category":' + "[" * 9000), "expected a JSON object"),
    "no category": (ok(text(category=None)), "expected a category of"),
    "another category": (ok(text(category="paint")), "expected a category of"),
    "a category of another language": (ok(text(category="löschen")), "expected a category of"),
    "a number as category": (ok(text(category=1)), "expected a category of"),
    "a list as object": (ok(text(object=["dog"])), "expected object as a text"),
    "a number as caption": (ok(text(target_caption=7)), "expected target_caption as a text"),
    "no object": (ok(text(object="")), "expected the object of a local"),
    "three sides": (ok(text(category="addition", box=[1, 2, 3])), "expected box as"),
    "a box of words": (ok(text(category="addition", box=["a"] * 4)), "expected box as"),
    "a box of no width": (ok(text(category="addition", box=[1, 2, 0, 3])), "positive width"),
    "a box of infinity": (ok(text(category="addition", box=[1, 2, 1e9, 3])), "expected box as"),
    "empty": (ok(""), "expected a text"),
    "null": (ok(None), "expected a text"),
    "no choices": ((200, {"choices": []}), "expected a chat completion"),
    "another shape": ((200, ["x"]), "expected a chat completion"),
    "wrong key": ((401, {"error": {"message": f"bad key {SECRET}"}}), r"401: bad key \[key\]"),
    "forbidden": ((403, "no"), "answers 403: no"),
    "no such model": ((404, {"error": {"message": "no model"}}), "answers 404: no model"),
    "too large": ((413, ""), "answers 413"),
    "elsewhere": ((302, "", {"Location": "http://example.invalid/"}), "answers 302"),
    "long wait": ((429, "", {"Retry-After": "3600"}), "asks to wait for 3600 s"),
    "always busy": ((503, "busy"), "answers 503: busy, 3 times"),
    "always broken": ((500, {"error": "x"}), "answers 500"),
    "no JSON": ((200, b"<html>"), "answers no JSON: .*3 times"),
    "cut on the way": ((200, b'{"cho', {"Content-Length": "400"}), "gives no reply: .*3 times"),
    "too long": ((200, b" " * (1 << 21)), "more than 1048576 bytes"),
    "slow": ((200, spaces(1, 0.6)), "timed out"),
    "dripping": ((200, spaces(8, 0.1)), "timed out"),
}
AGAIN = {  # what comes first; a plan follows
    "429 with seconds": ((429, "", {"Retry-After": "7"}), 7.0),
    "429 with a date": ((429, "", {"Retry-After": "Thu, 01 Jan 1970 00:00:00 GMT"}), 0.0),
    "429 without": ((429, ""), 1.0),
    "500": ((500, "oh"), 1.0),
    "502": ((502, b"<html>bad gateway</html>"), 1.0),
    "overloaded": ((529, ""), 1.0),
    "cut once": ((200, b"{", {"Content-Length": "99"}), 1.0),
}


class Server(LocalServer):
    """Answers from `script`, its last entry for ever; keeps what it was asked."""

    def __init__(self):
        super().__init__()
        self.script, self.asked = [], []

    def respond(self, headers, body):
        self.asked.append((headers, body))
        return self.script.pop(0) if len(self.script) > 1 else self.script[0]


@pytest.fixture(scope="module")
def shared():
    server = Server()
    yield server
    server.close()


@pytest.fixture
def server(shared, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    shared.script, shared.asked = [], []
    return shared


def endpoint(server, tmp_path, **changes):
    waits = []
    settings = {"timeout": 0.3, "tries": 3, "key": SECRET, "cache": tmp_path / "cache"}
    made = Endpoint("m", server.url, sleep=waits.append, **(settings | changes))
    return made, waits


def test_endpoint_list_has_sixty_replies():
    assert len(GOOD) + len(BAD) + len(AGAIN) >= 60


@pytest.mark.parametrize("name", GOOD)
def test_endpoint_plans_from_a_good_reply_and_asks_once(server, tmp_path, name):
    reply, expected = GOOD[name]
    server.script = [ok(reply)]
    ask, _ = endpoint(server, tmp_path)
    for _ in range(2):
        plan = ask("make it so", PICTURE)
        assert (plan.category, plan.object) == expected
    assert len(server.asked) == 1
    assert SECRET not in "".join(file.read_text() for file in (tmp_path / "cache").iterdir())


@pytest.mark.parametrize("name", BAD)
def test_endpoint_gives_one_clear_error(server, tmp_path, name, capfd, caplog):
    reply, message = BAD[name]
    server.script = [reply]
    ask, _ = endpoint(server, tmp_path)
    with pytest.raises((NotUnderstood, EndpointError), match=message) as caught:
        ask("make it so", PICTURE)
    assert "\n" not in str(caught.value)
    said = str(caught.value) + caplog.text + "".join(capfd.readouterr())
    assert SECRET not in said
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("name", AGAIN)
def test_endpoint_tries_again_after_the_time_that_is_asked(server, tmp_path, name):
    first, wait = AGAIN[name]
    server.script = [first, ok(text())]
    ask, waits = endpoint(server, tmp_path)
    assert ask("make it so", PICTURE).object == "dog"
    assert waits == [wait]


def test_endpoint_keeps_its_key_out_of_errors_and_files_where_the_server_repeats_it(
    server, tmp_path
):
    ask, _ = endpoint(server, tmp_path)
    server.script = [ok(f"your key is {SECRET}")]
    with pytest.raises(NotUnderstood, match=r"your key is \[key\]"):
        ask("make it so", PICTURE)
    server.script = [ok(text(target_caption=SECRET))]
    assert SECRET not in ask("make it so", PICTURE).target_caption
    assert SECRET not in next((tmp_path / "cache").iterdir()).read_text()


def test_endpoint_does_without_structured_output_where_the_server_has_none(server, tmp_path):
    refused = (400, {"error": {"message": "unknown field response_format"}})
    server.script = [refused, ok(text())]
    ask, _ = endpoint(server, tmp_path)
    assert isinstance(ask("make it so", PICTURE), EditPlan)
    assert ["response_format" in body for _, body in server.asked] == [True, False]


def test_endpoint_sends_its_key_and_the_picture_and_scales_the_box_back(server, tmp_path):
    server.script = [ok(text(category="addition", box=[10, 20, 30, 40]))]
    ask, _ = endpoint(server, tmp_path)
    plan = ask("add a dog", np.zeros((2048, 1024, 3), np.uint8))
    assert plan.boxes == ((20, 40, 80, 120),)
    headers, body = server.asked[0]
    assert headers["Authorization"] == f"Bearer {SECRET}"
    kinds = [part["type"] for part in body["messages"][1]["content"]]
    assert kinds == ["text", "image_url"]
    assert SECRET not in json.dumps(body)


def test_endpoint_asks_anew_for_another_picture_model_or_instruction(server, tmp_path):
    server.script = [ok(text())]
    for words, picture, model in (
        ("a", PICTURE, "m"),
        ("b", PICTURE, "m"),
        ("a", PICTURE[::-1], "m"),
        ("a", PICTURE, "n"),
        ("a", PICTURE, "m"),
        ("a", None, "m"),
    ):
        ask, _ = endpoint(server, tmp_path)
        ask.model = model
        ask(words, picture)
    assert len(server.asked) == 5


def test_endpoint_writes_over_a_damaged_cache(server, tmp_path):
    server.script = [ok(text())]
    ask, _ = endpoint(server, tmp_path)
    ask("a", PICTURE)
    (file,) = (tmp_path / "cache").iterdir()
    file.write_text("{")
    assert ask("a", PICTURE).object == "dog"
    assert len(server.asked) == 2
    assert json.loads(file.read_text())["reply"] == text()


def test_endpoint_that_is_not_there_says_so(tmp_path):
    ask = Endpoint("m", "http://127.0.0.1:9/v1", SECRET, tries=1)
    with pytest.raises(EndpointError, match="gives no reply"):
        ask("a")
    with pytest.raises(ValueError, match="expected an endpoint's url"):
        Endpoint("m", "file:///etc/passwd")


def test_endpoint_is_an_instructor_by_name(server):
    assert instructor("endpoint", url=server.url, key="").url == server.url
    with pytest.raises(ValueError, match="expected an instructor of patterns, endpoint, local"):
        instructor("oracle")
