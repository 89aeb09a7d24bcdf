"""Figures of two sets of features, on sets whose figures are known."""
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from microdoppler.fidelity.distributions import (across_groups, diversity, kernel_distance, kernel_distances_of_halves,
                                                 mean_distance, precision_recall, separation)


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


def test_kid_of_halves_against_the_formula_written_out():
    rng = np.random.default_rng(7)
    groups, halves = np.repeat(np.arange(4), 3), np.array([[True, True, False, False], [True, False, False, True]])
    x = rng.normal(0, 1, (12, 3))
    for half, found in zip(halves, kernel_distances_of_halves(x, groups, halves)):
        one, other = half[groups], ~half[groups]
        assert found == pytest.approx(kernel_distance(x[one], x[other], groups[one], groups[other])[0])
    assert np.isnan(kernel_distances_of_halves(x, groups, np.array([[True, False, False, False]]))).all()


def test_kid_of_halves_is_zero_in_the_mean_of_all_divisions_however_unequal_the_groups():
    rng = np.random.default_rng(8)
    groups = np.repeat(np.arange(6), [20, 1, 15, 2, 9, 4])
    x = rng.normal(0, 1, (len(groups), 3)) + rng.normal(0, 1, (6, 3))[groups]
    all_divisions = np.array([[i in chosen for i in range(6)] for chosen in combinations(range(6), 3)])
    assert kernel_distances_of_halves(x, groups, all_divisions).mean() == pytest.approx(0, abs=1e-12)


def compared(real, synthetic, groups=None):
    """Precision and recall of two sets of vectors. groups: of all of them; default: each is a group of its own."""
    places = np.arange(len(real) + len(synthetic))
    distances = across_groups(np.concatenate([real, synthetic]), places if groups is None else groups)
    return precision_recall(distances, places[:len(real)], places[len(real):])


def test_precision_and_recall_of_known_sets():
    rng = np.random.default_rng(3)
    def mode(at, count=150):
        return rng.normal(0, 1, (count, 4)) + at
    alike = compared(mode(0), mode(0))
    assert min(alike) > 0.7
    assert compared(mode(0), mode(100)) == (0, 0)
    precision, recall = compared(np.concatenate([mode(0), mode(100)]), mode(0))
    assert precision > 0.7 and recall == pytest.approx(0.5, abs=0.12)
    precision, recall = compared(mode(0), np.concatenate([mode(0), mode(100)]))
    assert precision == pytest.approx(0.5, abs=0.12) and recall > 0.7


def test_precision_and_recall_on_a_line_by_hand():
    """Radii to the third neighbour: 0 → 3, 1 → 2, 2 → 2, 3 → 3. Synthetic 6 lies at the rim of 3's ball, 7 outside."""
    real = np.array([[0.0], [1], [2], [3]])
    assert compared(real, np.array([[6.0], [6], [6], [7], [7], [7]])) == (0.5, 0)
    assert np.isnan(compared(real, real[:3])).all() and np.isnan(compared(real[:0], real)).all()


def test_the_radius_reaches_to_another_group():
    """0 and 1 are of one pass, as 10, 11 and 12 are: radii of 10 → 10, of 0 → 12. One neighbour less, and it is
    unknown."""
    real, synthetic = np.array([[0.0], [1], [10], [11], [12]]), np.array([[-12.0], [-12.5], [24], [23]])
    groups = np.array([0, 0, 1, 1, 1, 2, 3, 4, 5])
    assert np.isnan(compared(real, synthetic, groups)).all()        # 10 has two neighbours in the other pass
    real, groups = np.array([[0.0], [1], [2], [10], [11], [12]]), np.array([0, 0, 0, 1, 1, 1, 2, 3, 4, 5])
    assert compared(real, synthetic, groups)[0] == 0.75             # -12 … 24 is covered, -12.5 is not


def test_diversity_scales_and_a_collapsed_set_has_none():
    features, groups = np.random.default_rng(4).normal(0, 1, (40, 6)), np.arange(40)
    spread = mean_distance(across_groups(features, groups))
    assert diversity(mean_distance(across_groups(0.6 * features + 5, groups)), spread) == pytest.approx(0.6)
    assert diversity(mean_distance(across_groups(np.ones((10, 6)), groups[:10])), spread) == 0
    assert np.isnan(mean_distance(across_groups(features[:1], groups[:1])))
    assert np.isnan(mean_distance(across_groups(features, 0 * groups)))
    assert np.isnan(diversity(spread, 0.0))        # a class of black images


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
    assert compared(x[a], y[b]) == compared(x, y)
