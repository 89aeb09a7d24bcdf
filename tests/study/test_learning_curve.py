"""The learning curve: how many real images a synthetic set is worth."""
import numpy as np
import pytest

from microdoppler.study.counts import CorrectCounts
from microdoppler.study.learning_curve import equivalent_size, replicated_accuracies, worth, worth_sentence

SIZES = [5, 10, 20, 40]


def test_a_curve_that_gains_the_same_with_each_doubling_is_inverted_exactly():
    accuracy = np.array([0.5, 0.6, 0.7, 0.8])
    assert equivalent_size(SIZES, accuracy, 0.7) == 20
    assert equivalent_size(SIZES, accuracy, 0.75) == pytest.approx(20 * 2 ** 0.5)
    assert equivalent_size(SIZES, accuracy, 0.49) == -np.inf
    assert equivalent_size(SIZES, accuracy, 0.81) == np.inf


def test_a_dip_of_chance_does_not_make_the_answer_ambiguous():
    """More images do no harm: 0.72 and 0.68 become 0.70 each, and everything below is reached before."""
    accuracy = np.array([0.5, 0.72, 0.68, 0.8])
    assert 5 < equivalent_size(SIZES, accuracy, 0.69) < 10
    assert 20 < equivalent_size(SIZES, accuracy, 0.75) < 40


def test_worth_and_its_interval():
    """With noise on the measured accuracy alone, the interval is that noise sent through the inverse of the curve."""
    curve, rng = np.array([0.5, 0.6, 0.7, 0.8]), np.random.default_rng(0)
    noise = np.concatenate([[0], rng.normal(0, 0.02, 4000)])
    real, other = np.tile(curve, (4001, 1)), (curve + 0.05) + noise[:, None]
    result = worth(SIZES, real, other, place=1)
    assert result["size"] == 10 and result["equivalent"] == pytest.approx(10 * 2 ** 0.5)
    low, high = (10 * 2 ** ((0.05 + 1.96 * sign * 0.02) / 0.1) for sign in (-1, 1))
    assert result["interval_95"] == pytest.approx([low, high], rel=0.02)


def test_words():
    known = worth_sentence({"size": 10, "equivalent": 14.1, "interval_95": [9.6, None]}, SIZES, "real + synthetic")
    assert "as accurate as 14 real images alone (95 % interval 10 to more than 40)" in known
    assert "the synthetic set is worth +4 real images per person" in known
    beyond = worth_sentence({"size": 40, "equivalent": None, "interval_95": [0.0, None]}, SIZES, "real + synthetic")
    assert "as accurate as more than 40 real images alone (95 % interval less than 5 to more than 40)" in beyond
    assert "worth" not in beyond


def test_an_answer_below_the_curve_is_said_to_be_below():
    real = np.tile([0.5, 0.6, 0.7, 0.8], (3, 1))
    assert worth(SIZES, real, real - 0.4, place=3)["equivalent"] == 0


def test_replicates_scatter_as_passes_and_runs_do():
    """Passes that are right or wrong as a whole, and runs that differ: the variance of a mean of n is s² / n."""
    rng, num_seeds, num_passes = np.random.default_rng(3), 4, 40
    right = rng.random(num_passes) < 0.7
    counts = CorrectCounts({"a": np.tile(10.0 * right, (1, num_seeds, 1))}, np.full((1, num_passes), 10.0),
                           np.repeat([0, 1], num_passes // 2))
    rows = replicated_accuracies([counts, counts], "a")
    assert rows.shape == (2001, 2) and (rows[:, 0] == rows[:, 1]).all() and rows[0, 0] == pytest.approx(right.mean())
    expected = sum(right[own].var(ddof=1) / 20 for own in (slice(0, 20), slice(20, 40))) / 4
    assert rows[1:, 0].var() == pytest.approx(expected, rel=0.1)
    of_runs = np.array([0.5, 0.6, 0.7, 0.9])
    counts = CorrectCounts({"a": np.broadcast_to(10 * of_runs[None, :, None], (1, 4, 40)).copy()},
                           np.full((1, 40), 10.0), np.repeat([0, 1], 20))
    assert replicated_accuracies([counts], "a")[1:].var() == pytest.approx(of_runs.var(ddof=1) / 4, rel=0.1)
