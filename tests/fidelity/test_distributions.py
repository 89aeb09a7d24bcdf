"""Figures of two sets of features, on sets whose figures are known."""
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundwork.errors import InputError
from microdoppler.fidelity.distributions import diversity_ratio, kernel_distance, precision_recall, separation


def slow_kernel_distance(x, y):
    """Bińkowski et al. 2018, written out."""
    def kernel(a, b):
        return (np.dot(a, b) / len(a) + 1) ** 3
    n, m = len(x), len(y)
    return (sum(kernel(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
            + sum(kernel(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
            - 2 * sum(kernel(a, b) for a in x for b in y) / (n * m))


def test_kid_against_the_formula_written_out():
    rng = np.random.default_rng(0)
    x, y = rng.normal(0, 1, (7, 3)), rng.normal(0.5, 2, (5, 3))
    assert kernel_distance(x, y)[0] == pytest.approx(slow_kernel_distance(x, y))


def test_kid_of_two_points():
    """All of one set at 0, all of the other at a: (0 + 1)^3 + (a² + 1)^3 − 2 · 1."""
    x, y = np.zeros((6, 1)), np.full((4, 1), 2.0)
    assert kernel_distance(x, y)[0] == pytest.approx(1 + 125 - 2)


def test_kid_is_near_its_population_value():
    """One dimension, N(0, 1) against N(1, 1): E(xy + 1)^3 = 1 + 3 E[x]E[y] + 3 E[x²]E[y²] + E[x³]E[y³]; moments of
    N(1, 1) are 1, 2, 4, of N(0, 1) 0, 1, 0: (1 + 3) + (1 + 3 + 12 + 16) - 2 (1 + 0 + 6 + 0) = 22."""
    rng = np.random.default_rng(1)
    found, error = kernel_distance(rng.normal(0, 1, (1500, 1)), rng.normal(1, 1, (1500, 1)))
    assert abs(found - 22) < 3 * error < 12
    same, error = kernel_distance(rng.normal(0, 1, (1500, 1)), rng.normal(0, 1, (1500, 1)))
    assert abs(same) < 3 * error


def test_standard_error_is_the_scatter_over_many_samples_and_groups_count_once():
    rng, found, errors, grouped = np.random.default_rng(2), [], [], []
    for _ in range(120):
        x, y = np.repeat(rng.normal(0, 1, (20, 4)), 5, axis=0), rng.normal(0.7, 1, (60, 4))
        value, error = kernel_distance(x, y, np.repeat(np.arange(20), 5))
        found.append(value)
        grouped.append(error)
        errors.append(kernel_distance(x, y)[1])
    assert np.mean(grouped) == pytest.approx(np.std(found), rel=0.3)
    assert np.mean(errors) < 0.8 * np.std(found)        # as if 100 vectors were independent


def test_overlapping_windows_do_not_pass_for_a_distance():
    """Each vector five times, as windows of one recording: against others of the same distribution KID is 0."""
    rng, found, naive = np.random.default_rng(6), [], []
    for _ in range(60):
        x, y = (np.repeat(rng.normal(0, 1, (20, 4)), 5, axis=0) for _ in range(2))
        groups = np.repeat(np.arange(20), 5)
        found.append(kernel_distance(x, y, groups, groups)[0])
        naive.append(kernel_distance(x, y)[0])
    assert abs(np.mean(found)) < 3 * np.std(found) / 60**0.5 < np.mean(naive)


def test_precision_and_recall_of_known_sets():
    rng = np.random.default_rng(3)
    def mode(at, count=150):
        return rng.normal(0, 1, (count, 4)) + at
    alike = precision_recall(mode(0), mode(0))
    assert min(alike) > 0.7
    assert precision_recall(mode(0), mode(100)) == (0, 0)
    precision, recall = precision_recall(np.concatenate([mode(0), mode(100)]), mode(0))
    assert precision > 0.7 and recall == pytest.approx(0.5, abs=0.12)
    precision, recall = precision_recall(mode(0), np.concatenate([mode(0), mode(100)]))
    assert precision == pytest.approx(0.5, abs=0.12) and recall > 0.7


def test_precision_and_recall_on_a_line_by_hand():
    """Radii to the third neighbour: 0 → 3, 1 → 2, 2 → 2, 3 → 3. Synthetic 6 lies at the rim of 3's ball, 7 outside."""
    real = np.array([[0.0], [1], [2], [3]])
    assert precision_recall(real, np.array([[6.0], [6], [6], [7], [7], [7]])) == (0.5, 0)
    with pytest.raises(InputError, match="3 synthetic"):
        precision_recall(real, real[:3])


def test_diversity_scales_and_a_collapsed_set_has_none():
    features = np.random.default_rng(4).normal(0, 1, (40, 6))
    assert diversity_ratio(features, 0.6 * features + 5) == pytest.approx(0.6)
    assert diversity_ratio(features, np.ones((10, 6))) == 0
    assert np.isnan(diversity_ratio(features, features[:1]))
    with np.errstate(all="raise"):
        assert np.isnan(diversity_ratio(np.ones((10, 6)), features))        # a class of black images


def test_separation_between_chance_and_certainty():
    rng = np.random.default_rng(5)
    labels = np.repeat(np.arange(5), 100)
    noise = rng.normal(0, 1, (500, 8))
    assert separation(noise, labels) == pytest.approx(4 / 499, rel=0.5)
    assert separation(np.eye(5)[labels], labels) == pytest.approx(1)
    # means 0 and 2 with variance 1 in one dimension: between 1, total 2
    half = np.arange(20_000) % 2
    assert separation(rng.normal(2.0 * half, 1)[:, None], half) == pytest.approx(0.5, abs=0.02)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000))
def test_the_order_of_the_images_does_not_matter(seed):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(0, 1, (12, 3)), rng.normal(0.3, 1, (9, 3))
    a, b = rng.permutation(12), rng.permutation(9)
    assert kernel_distance(x[a], y[b]) == pytest.approx(kernel_distance(x, y))
    assert precision_recall(x[a], y[b]) == precision_recall(x, y)
    assert diversity_ratio(x[a], y[b]) == pytest.approx(diversity_ratio(x, y))
