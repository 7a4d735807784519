import numpy as np
import pytest

from tests.app.serving import Page, Stepping, serving

RANDOM = np.random.default_rng(0)


@pytest.fixture(scope="session")
def picture():
    return RANDOM.integers(0, 256, (48, 64, 3), np.uint8)


@pytest.fixture(scope="session")
def mask():
    mask = np.zeros((48, 64), np.uint8)
    mask[10:30, 20:50] = 255
    return mask


@pytest.fixture(scope="module")
def painter():
    return Stepping()


@pytest.fixture(scope="module")
def app(tmp_path_factory, painter):
    with serving(tmp_path_factory.mktemp("app"), painter) as app:
        yield app


@pytest.fixture
def page(app, picture):
    page = Page(app.port)
    page.open(picture)
    yield page
    page.left()
