import numpy as np
import pytest

from brushjax.metrics import region
from brushjax.metrics.frechet import Gaussian, Rows
from brushjax.metrics.similarity import (
    clip_score,
    cosine,
    direction,
    self_similarity,
    structure_distance,
)

RNG = np.random.default_rng(0)


def test_cosine_ignores_lengths_and_is_undefined_for_nothing():
    a, b = RNG.normal(size=(2, 8))
    assert cosine(3 * a, 5 * a) == pytest.approx(1)
    assert cosine(a, b) == pytest.approx(a @ b / np.sqrt(a @ a * (b @ b)))
    assert np.isnan(cosine(a, 0 * a))


def test_clip_score_cuts_negative_cosines_off():
    a = RNG.normal(size=8)
    assert clip_score(a, 2 * a) == pytest.approx(100)
    assert clip_score(a, -a) == 0
    assert np.isnan(clip_score(a, 0 * a))


def test_direction_compares_changes_and_is_undefined_without_one():
    before, after, text = RNG.normal(size=(3, 8))
    change = after - before
    assert direction(before, after, text, text + 2 * change, normalized=False) == pytest.approx(1)
    assert np.isnan(direction(before, before, text, after, normalized=False))
    assert np.isnan(direction(before, after, text, text, normalized=True))
    lengths = [1.0, 3.0, 0.5, 2.0]
    vectors = [before, after, text, text + change]
    stretched = [length * vector for length, vector in zip(lengths, vectors)]
    assert direction(*stretched, normalized=True) == pytest.approx(
        direction(*vectors, normalized=True)
    )
    assert direction(*stretched, normalized=False) != pytest.approx(
        direction(*vectors, normalized=False)
    )


def test_structure_distance_sees_relations_not_lengths():
    tokens, others = RNG.normal(size=(2, 5, 8))
    similarity = self_similarity(tokens)
    np.testing.assert_allclose(np.diag(similarity), 1)
    np.testing.assert_allclose(similarity, similarity.T)
    assert structure_distance(tokens, tokens * RNG.uniform(1, 2, (5, 1))) == pytest.approx(0)
    expected = np.mean((similarity - self_similarity(others)) ** 2)
    assert structure_distance(tokens, others) == pytest.approx(expected)
    with pytest.raises(ValueError, match="as many tokens"):
        structure_distance(tokens, others[:4])


def test_regions_are_compared_by_pixels():
    truth, found = np.zeros((2, 4, 4), bool)
    truth[:2], found[:, :2] = True, True
    assert region.iou(found, truth) == pytest.approx(4 / 12)
    assert region.precision(found, truth) == pytest.approx(0.5)
    found[2:] = False
    assert region.precision(found, truth) == 1
    assert region.recall(found, truth) == 0.5
    assert region.area(found) == 0.25
    nothing = np.zeros((4, 4), bool)
    assert np.isnan(region.precision(nothing, truth))
    assert region.iou(nothing, truth) == 0
    assert np.isnan(region.iou(nothing, nothing))
    with pytest.raises(ValueError, match="one size"):
        region.iou(truth, truth[:3])


def test_frechet_distance_equals_its_formula_and_merges():
    from scipy.linalg import sqrtm

    a, b = RNG.normal(size=(40, 5)), RNG.normal(size=(30, 5)) @ RNG.normal(size=(5, 5)) + 1
    covariances = [np.cov(x.T) for x in (a, b)]
    root = sqrtm(covariances[0] @ covariances[1]).real
    step = a.mean(axis=0) - b.mean(axis=0)
    expected = step @ step + np.trace(covariances[0] + covariances[1] - 2 * root)
    parts = Gaussian.of(a[:3]).merge(Gaussian.of(a[3:]))
    assert parts.distance(Gaussian.of(b)) == pytest.approx(expected, rel=1e-8)
    assert Gaussian.of(a).distance(Gaussian.of(a[::-1])) == pytest.approx(0, abs=1e-9)
    assert np.isnan(Gaussian.of(a[:1]).distance(Gaussian.of(b)))


def test_frechet_distance_of_fewer_pictures_than_dimensions_is_finite():
    a, b = RNG.normal(size=(4, 9)), RNG.normal(size=(3, 9))
    assert np.isfinite(Gaussian.of(a).distance(Gaussian.of(b)))


def test_kernel_distance_equals_its_sums_and_merges():
    a, b = RNG.normal(size=(6, 3)), RNG.normal(size=(5, 3)) + 1

    def kernel(x, y):
        return (x @ y / 3 + 1) ** 3

    within = np.mean([kernel(a[i], a[j]) for i in range(6) for j in range(6) if i != j])
    within += np.mean([kernel(b[i], b[j]) for i in range(5) for j in range(5) if i != j])
    across = np.mean([kernel(x, y) for x in a for y in b])
    parts = Rows.of(a[:2]).merge(Rows.of(a[2:]))
    assert parts.distance(Rows.of(b)) == pytest.approx(within - 2 * across)
    assert np.isnan(Rows.of(a[:1]).distance(Rows.of(b)))


def test_auc_counts_pairs_that_are_in_order_and_half_of_equals():
    truth = np.array([[True, False], [False, True]])
    assert region.auc(np.array([[0.9, 0.1], [0.2, 0.8]]), truth) == 1
    assert region.auc(np.array([[0.9, 0.8], [0.1, 0.2]]), truth) == pytest.approx(3 / 4)
    assert region.auc(np.ones((2, 2)), truth) == 0.5
    assert np.isnan(region.auc(np.ones((2, 2)), np.ones((2, 2), bool)))
