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
    fine = random.normal(0.5, 0.1, (20, 32, 32, 1)).repeat(3, axis=-1)
    coarse = random.normal(0.5, 0.1, (20, 8, 8, 1)).repeat(4, axis=1).repeat(4, axis=2)
    fine, coarse = np.clip(fine, 0, 1), np.clip(coarse.repeat(3, axis=-1), 0, 1)
    fitted = NearestClass.fit(
        np.concatenate([fine[:12], coarse[:12]]), ["fine"] * 12 + ["coarse"] * 12
    )
    predicted = fitted.predict(np.concatenate([fine[12:], coarse[12:]]))
    assert predicted == ["fine"] * 8 + ["coarse"] * 8


def test_gradient_features_of_a_slope_are_its_steepness():
    slope = np.broadcast_to(np.linspace(0, 1, 33)[None, :, None, None], (1, 33, 33, 3))
    lightness = srgb_to_lab(slope)[0, :, 0, 0] / 100
    full, half = crop_features(slope)[0, 6:8]
    assert np.exp(full) == pytest.approx(np.abs(np.gradient(lightness)).mean() + 1e-3)
    assert np.exp(half) == pytest.approx(
        2 * np.exp(full), rel=0.1
    )  # half the pixels, twice the step


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
