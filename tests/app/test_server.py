"""The editor's server, asked over HTTP: plans, pictures, history, cancelling, rooms."""

import base64
import json
import re
import time

import numpy as np
import pytest
from PIL import Image

from brushjax.agents import EditPlan, instructor
from brushjax.agents.editors import InpaintingEditor
from brushjax.agents.sessions import Session
from brushjax.app.rooms import Limits
from brushjax.inference.result import read_settings
from tests.agents.noise import Noise
from tests.app.serving import Page, Stepping, pixels, png, serving


def test_server_shows_a_page_whose_files_are_all_there(page):
    answer = page.ask("GET", "/")
    assert answer.status == 200
    assert "script-src 'self'" in answer.headers["content-security-policy"]
    text = answer.content.decode()
    names = set(re.findall(r'(?:href|src)="([\w.]+)', text))
    app = page.ask("GET", "/app.js").content.decode()
    names |= set(re.findall(r'from "\./([\w.]+)"', app))
    assert {"app.js", "style.css", "mask.js"} <= names
    for name in names:
        assert page.ask("GET", f"/{name}").status == 200, name
    icons = page.ask("GET", "/icons.svg").content.decode()
    assert set(re.findall(r"icons\.svg#(\w+)", text)) <= set(re.findall(r'id="(\w+)"', icons))
    ids = set(re.findall(r'\$\("(\w+)"\)', app))
    assert ids <= set(re.findall(r'id="(\w+)"', text))


def test_server_plans_as_the_agent_does(page, picture):
    text = "add a red balloon to the sky"
    plan = instructor("patterns")(text, picture)
    said = page.post("plan", turn=0, instruction=text).json
    assert (
        (said["category"], said["object"])
        == (plan.category, plan.object)
        == ("addition", "red balloon")
    )
    assert said["target_caption"] == plan.target_caption
    assert said["mask"]
    assert page.post("plan", turn=0, instruction="remove the dog").json["mask"] is None
    refused = page.post("plan", turn=0, instruction="colourless green ideas sleep")
    assert refused.status == 400
    assert refused.json["error"]


def test_server_paints_as_the_editor_does_and_only_in_the_mask(page, picture, mask, tmp_path):
    state = page.painted(mask, seed=3)
    assert (state["at"], state["job"]["state"], state["job"]["error"]) == (1, "done", "")
    made = page.picture(1)
    assert np.array_equal(made[mask == 0], picture[mask == 0])
    plan = EditPlan(picture, "replace the dog with a cat", "local", "dog", "", "a cat", mask)
    assert np.array_equal(made, InpaintingEditor(Noise(), steps=4)(plan, 3))
    for name in ("plan", "mask", "picture"):
        answer = page.ask("GET", f"/api/turn/1/{name}")
        file = re.search('filename="(.+)"', answer.headers["content-disposition"])[1]
        (tmp_path / file).write_bytes(answer.content)
    kept = EditPlan.load(tmp_path / "plan.json", picture)
    assert np.array_equal(kept.mask, mask)
    assert kept.target_caption == "a cat"
    settings = json.loads(read_settings(tmp_path / "picture.png")["settings"])
    assert (settings["steps"], settings["base"], settings["method"]) == (4, "tiny", "agent")
    assert page.ask("GET", "/api/turn/0/mask").status == 404
    assert pixels(page.ask("GET", "/api/turn/1/thumb").content).shape == (48, 64, 3)


def test_server_makes_four_candidates_of_one_parent(page, mask):
    state = page.painted(mask, count=4, seed=7)
    assert [(turn["parent"], turn["seed"]) for turn in state["turns"][1:]] == [
        (0, 7), (0, 8), (0, 9), (0, 10)
    ]  # fmt: skip
    assert state["at"] == 1
    assert len({page.picture(n).tobytes() for n in (1, 2, 3, 4)}) == 4
    again = page.painted(mask, seed=9)
    assert np.array_equal(page.picture(again["at"]), page.picture(3))


def test_server_undoes_goes_and_branches(page, mask):
    page.painted(mask)
    page.painted(mask, turn=1)
    assert page.post("undo").json == {"at": 1}
    state = page.painted(mask, turn=1, seed=5)
    assert [turn["parent"] for turn in state["turns"]] == [None, 0, 1, 1]
    assert page.post("go", turn=2).json == {"at": 2}
    assert page.post("go", turn=9).status == 400
    page.post("go", turn=0)
    assert "nothing to undo" in page.post("undo").json["error"]
    page.post("anew", turn=3)
    state = page.until(lambda state: True)
    assert (len(state["turns"]), state["job"]) == (1, None)


def test_server_tells_every_step(page, painter, mask):
    told = []
    news = page.news()
    next(news)
    painter.free.clear()
    page.paint(mask, steps=12)
    for state in news:
        told.append((state["job"]["state"], state["job"]["done"]))
        if state["job"]["state"] == "done":
            break
    painter.free.set()
    assert {("running", 3), ("running", 8)} <= {*told}


def test_cancel_stops_between_two_steps(page, painter, mask):
    painter.free.clear()
    painter.begun.clear()
    page.paint(mask, steps=150, count=4)
    assert painter.begun.wait(10)
    page.until(lambda state: state["job"]["done"] >= 2)
    start = time.monotonic()
    assert page.post("cancel").status == 200
    state = page.until(lambda state: state["job"]["state"] != "running")
    assert time.monotonic() - start < 2
    assert (state["job"]["state"], len(state["turns"])) == ("cancelled", 1)
    steps = painter.steps
    time.sleep(0.2)
    assert painter.steps == steps < 150
    painter.free.set()
    assert page.painted(mask)["job"]["state"] == "done"


def test_jobs_of_a_closed_page_are_dropped(tmp_path, picture, mask):
    painter = Stepping()
    with serving(tmp_path, painter, limits=Limits(away=0.2)) as app:
        page = Page(app.port)
        page.open(picture)
        news = page.news()
        next(news)
        painter.free.clear()
        page.paint(mask, steps=150)
        page.paint(mask, steps=150)
        assert painter.begun.wait(10)
        page.left()
        end = time.monotonic() + 5
        while app.painting._jobs() and time.monotonic() < end:
            time.sleep(0.05)
        assert app.painting._jobs() == []
        assert painter.steps < 150


def test_queue_has_places_for_each_room_and_for_all(tmp_path, picture, mask):
    painter = Stepping()
    with serving(tmp_path, painter, limits=Limits(jobs_each=2, jobs=3)) as app:
        pages = [Page(app.port) for _ in range(3)]
        for page in pages:
            page.open(picture)
        painter.free.clear()
        statuses = [pages[0].paint(mask, steps=150).status for _ in range(3)]
        assert statuses == [202, 202, 429]
        assert [page.paint(mask, steps=150).status for page in pages[1:]] == [202, 429]
        waiting = pages[1].until(lambda state: True)["job"]
        assert (waiting["state"], waiting["ahead"]) == ("waiting", 2)


def test_rooms_are_apart_and_their_folder_goes_with_the_server(tmp_path, picture, mask):
    with serving(tmp_path, Stepping()) as app:
        one, other = Page(app.port), Page(app.port)
        assert one.headers["X-Room"] != other.headers["X-Room"]
        one.open(picture)
        one.painted(mask)
        assert other.ask("GET", "/api/turn/1/picture").status == 400
        stranger = other.ask("GET", "/api/turn/1/picture", **{"X-Room": "guess"})
        assert stranger.status == 410
        again = Page(app.port, **{"X-Room": one.headers["X-Room"]})  # the tab is loaded again
        assert again.headers["X-Room"] == one.headers["X-Room"]
        assert len(list(tmp_path.glob("brushjax-app-*/*"))) == 2
    assert list(tmp_path.iterdir()) == []


def test_rooms_take_the_place_of_those_that_nobody_looks_at(tmp_path, picture):
    with serving(tmp_path, Stepping(), limits=Limits(rooms=2, away=0)) as app:
        pages = [Page(app.port) for _ in range(3)]
        assert pages[0].ask("GET", "/api/turn/0/picture").status == 410
        for page in pages[1:]:
            next(page.news())
        assert Page(app.port).offered == {}  # both are looked at
        for page in pages:
            page.left()


def test_disk_of_a_room_is_bounded(tmp_path, picture, mask):
    small = 4 * picture.shape[0] * picture.shape[1] + (1 << 16)
    with serving(tmp_path, Stepping(), limits=Limits(room_bytes=3 * small)) as app:
        page = Page(app.port)
        page.open(picture)
        answers = [page.paint(mask, count=1).status]
        while answers[-1] == 202 and len(answers) < 40:
            page.until(lambda state: state["job"]["state"] == "done")
            answers.append(page.paint(mask).status)
        assert answers[-1] == 429
        used = sum(p.stat().st_size for p in tmp_path.rglob("*") if p.is_file())
        assert used <= 3 * small
        page.post("anew", turn=1)
        assert page.paint(mask).status == 202


def withheld(pictures):
    return [bool((picture[0, 0] == 66).all()) for picture in pictures]


def bad_results(pictures):
    return [picture.shape[0] == 48 and not (picture[0, 0] == 7).all() for picture in pictures]


def test_safety_checker_withholds_uploads_and_results(tmp_path, mask):
    checks = {"withheld": 66, "bad_results": 7}
    for name, grey in checks.items():
        with serving(tmp_path, Stepping(), safety=f"{__name__}:{name}") as app:
            page = Page(app.port)
            answer = page.ask("PUT", "/api/picture", png(np.full((48, 64, 3), grey, np.uint8)))
            if name == "withheld":
                assert answer.status == 451
                continue
            assert answer.status == 200
            corner = np.roll(mask, (-10, -20), (0, 1))
            state = page.painted(corner)
            assert (state["job"]["state"], len(state["turns"])) == ("failed", 1)
            assert "withholds" in state["job"]["error"]


def test_region_is_found_as_the_probability_of_each_pixel(tmp_path, picture):
    class Placement:
        def pixels(self, patches, height, width):
            return np.broadcast_to(patches.reshape(1, 1, 4)[:, :, 3:], (1, height, width))

    class Finder:
        encoders = type("Encoders", (), {"placement": Placement()})()

        def __call__(self, image, instruction):
            assert instruction == "make the dog red"
            return np.array([0, 0.1, 0.5, 0.8], np.float32)

    with serving(tmp_path, Stepping(), region=tmp_path) as app:
        app.models.finder = Finder()
        page = Page(app.port)
        assert (page.offered["methods"], page.offered["finds"]) == (["agent", "region"], ["region"])
        page.open(picture)
        found = page.post("find", turn=0, by="region", instruction="make the dog red").json
        assert (pixels(base64.b64decode(found["probability"])) == 204).all()
        assert page.post("find", turn=0, by="phrase").status == 400


def test_region_is_found_by_the_predictor_in_the_package_without_a_flag(tmp_path, picture):
    with serving(tmp_path, Stepping()) as app:
        page = Page(app.port)
        assert (page.offered["methods"], page.offered["finds"]) == (["agent", "region"], ["region"])
        page.open(picture)
        found = page.post("find", turn=0, by="region", instruction="replace the cat with a dog")
        assert found.status == 200, found.json
        assert len(np.unique(pixels(base64.b64decode(found.json["probability"])))) > 1


def test_large_pictures_are_scaled_down(page):
    assert page.open(np.zeros((1200, 2400, 3), np.uint8)) == {"width": 1024, "height": 512}


def test_session_files_are_those_of_the_command(page, app, mask):
    page.painted(mask)
    room = app.rooms.get(page.headers["X-Room"])
    session = Session.open(room.session.folder)
    assert {path.name for path in session.files(1).values()} >= {"picture.png", "plan.json"}
    with Image.open(session.files(1)["mask"]) as image:
        assert np.array_equal(np.asarray(image), mask)


@pytest.mark.parametrize("path", ["plan", "paint", "find", "undo", "go"])
def test_everything_needs_a_picture_first(app, path, mask):
    page = Page(app.port)
    answer = page.paint(mask) if path == "paint" else page.post(path)
    assert answer.status == 400
    assert "picture first" in answer.json["error"] or "no model" in answer.json["error"]
