import numpy as np
import pytest

from brushjax.metrics.nearest_class import NearestClass, crop_features, srgb_to_lab

COLOURS = {"sky": (0.4, 0.6, 0.9), "grass": (0.3, 0.6, 0.2), "brick": (0.6, 0.3, 0.2)}


def crops(name: str, count: int, size: int, seed: int) -> np.ndarray:
    """Noisy uint8 crops of one colour."""
    random = np.random.default_rng(seed)
    noise = random.normal(0, 0.08, (count, size, size, 3)) + random.normal(
        0, 0.05, (count, 1, 1, 3)
    )
    return (np.clip(np.array(COLOURS[name]) + noise, 0, 1) * 255).astype(np.uint8)


@pytest.fixture(scope="module")
def classifier():
    training = [(name, crops(name, 12, 24, seed)) for seed, name in enumerate(COLOURS)]
    names = [name for name, batch in training for _ in batch]
    return NearestClass.fit(np.concatenate([batch for _, batch in training]), names)


@pytest.mark.parametrize("name", COLOURS)
@pytest.mark.parametrize("size", [24, 40])
def test_new_crops_are_nearest_to_their_own_class(classifier, name, size):
    assert classifier.predict(crops(name, 6, size, 100)) == [name] * 6


def test_texture_alone_separates_classes():
    random = np.random.default_rng(0)
    down = np.sin(np.arange(32) * 0.8 + random.uniform(0, 6, (20, 1)))
    rows = np.broadcast_to(down[:, :, None, None], (20, 32, 32, 3)) / 4 + 0.5
    columns = np.swapaxes(rows, 1, 2)
    fitted = NearestClass.fit(
        np.concatenate([rows[:12], columns[:12]]), ["rows"] * 12 + ["columns"] * 12
    )
    predicted = fitted.predict(np.concatenate([rows[12:], columns[12:]]))
    assert predicted == ["rows"] * 8 + ["columns"] * 8


def test_votes_are_shares_and_chance_is_one_in_the_classes(classifier):
    votes = classifier.votes(crops("sky", 3, 24, 5))
    assert votes.shape == (3, 3)
    np.testing.assert_allclose(votes.sum(axis=1), 1)
    assert classifier.chance == pytest.approx(1 / 3)


def test_a_class_with_more_crops_does_not_win_by_numbers():
    grey = np.random.default_rng(0).uniform(0.4, 0.6, (40, 16, 16, 3))
    names = ["many"] * 32 + ["few"] * 8
    predicted = NearestClass.fit(grey, names).predict(
        np.random.default_rng(1).uniform(0.4, 0.6, (60, 16, 16, 3))
    )
    assert 0.25 < predicted.count("few") / 60 < 0.75  # the classes are the same noise


def test_lab_of_known_colours():
    lab = srgb_to_lab(np.array([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0], [1.0, 0.0, 0.0]]))
    expected = [[100, 0, 0], [0, 0, 0], [53.24, 80.09, 67.20]]  # the textbook's sRGB red under D65
    np.testing.assert_allclose(lab, expected, atol=0.02)


def test_flat_crops_have_finite_features():
    assert np.isfinite(crop_features(np.zeros((2, 16, 16, 3), np.uint8))).all()


def test_one_class_is_refused():
    with pytest.raises(ValueError, match="at least two classes"):
        NearestClass.fit(crops("sky", 12, 16, 0), ["sky"] * 12)
