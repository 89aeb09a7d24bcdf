"""Metrics on persons whom no classifier was trained on: closed forms, and slow obvious versions."""
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from microdoppler.study.unseen import (cosine_similarity, equal_error_rate, open_set_auroc, rank_one, unseen_metrics)

TWO = {"labels": np.array([0, 0, 1, 1]), "passes": np.array([0, 1, 2, 3])}     # two persons with two passes of an image


def test_persons_on_orthogonal_axes_are_told_apart_without_an_error():
    similarity = cosine_similarity(np.array([[1.0, 0], [2, 0], [0, 1], [0, 3]]))
    np.testing.assert_allclose(similarity[0], [1, 1, 0, 0])
    assert rank_one(similarity, **TWO) == 1 and equal_error_rate(similarity, **TWO) == 0


def test_a_pass_is_not_compared_with_itself():
    """Overlapping windows of one pass look alike: they would make every person recognisable."""
    features = np.array([[1.0, 0], [1, 0.01], [0, 1], [0.01, 1]])
    labels, passes = np.array([0, 0, 1, 1]), np.array([0, 0, 1, 1])
    assert np.isnan(rank_one(cosine_similarity(features), labels, passes))
    assert np.isnan(equal_error_rate(cosine_similarity(features), labels, passes))
    swapped = np.array([0, 1, 0, 1])        # each person's two passes look like the other person's
    assert rank_one(cosine_similarity(features), swapped, passes=np.array([0, 1, 2, 3])) == 0


def test_a_single_person_can_be_mistaken_for_nobody():
    similarity = cosine_similarity(np.array([[1.0, 0], [1, 0.2]]))
    assert np.isnan(rank_one(similarity, np.zeros(2), np.array([0, 1])))


def test_a_person_with_one_pass_is_in_the_gallery_but_no_probe():
    similarity = cosine_similarity(np.array([[1.0, 0], [1, 0.2], [0, 1], [1, 0.02]]))
    labels, passes = np.array([0, 0, 1, 2]), np.array([0, 1, 2, 3])
    assert rank_one(similarity, labels, passes) == 0        # the third person is the nearest of both probes


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_rank_one_agrees_with_a_loop(seed):
    rng = np.random.default_rng(seed)
    labels, passes = rng.integers(0, 3, 12), rng.integers(0, 5, 12)
    features = rng.normal(size=(12, 4))
    hits = []
    for i in range(12) if len(set(labels.tolist())) > 1 else ():
        others = [j for j in range(12) if passes[j] != passes[i]]
        if any(labels[j] == labels[i] for j in others):
            cosines = [features[i] @ features[j] / np.linalg.norm(features[i]) / np.linalg.norm(features[j])
                       for j in others]
            hits.append(labels[others[int(np.argmax(cosines))]] == labels[i])
    found = rank_one(cosine_similarity(features), labels, passes)
    assert np.isnan(found) if not hits else found == pytest.approx(np.mean(hits))


def test_the_equal_error_rate_of_two_normal_distributions():
    """Genuine and impostor scores N(d, 1) and N(0, 1): both errors are Phi(-d / 2) at the threshold d / 2."""
    rng, count, distance = np.random.default_rng(0), 500, 1.5
    labels, passes = np.arange(count) % 2, np.arange(count)
    similarity = rng.normal(size=(count, count)) + distance * (labels[:, None] == labels)
    similarity = np.triu(similarity) + np.triu(similarity, 1).T
    assert equal_error_rate(similarity, labels, passes) == pytest.approx(norm.cdf(-distance / 2), abs=0.01)


def test_features_that_say_nothing_are_chance():
    rng = np.random.default_rng(1)
    labels, passes = np.arange(400) % 2, np.arange(400)
    similarity = cosine_similarity(rng.normal(size=(400, 3)))
    assert equal_error_rate(similarity, labels, passes) == pytest.approx(0.5, abs=0.02)
    assert rank_one(similarity, labels, passes) == pytest.approx(0.5, abs=0.1)


def test_open_set_auroc_counts_pairs():
    known, unseen = np.array([[0.9, 0.1], [0.6, 0.4]]), np.array([[0.3, 0.7], [0.5, 0.5]])
    assert open_set_auroc(known, unseen) == 0.75        # 0.9 beats both, 0.6 beats only 0.5
    assert open_set_auroc(known, known) == 0.5
    assert np.isnan(open_set_auroc(known, unseen[:0]))


def test_all_metrics_together():
    metrics = unseen_metrics(np.eye(2)[[0, 0, 1, 1]], TWO["labels"], TWO["passes"], np.array([[1.0, 0.0]]),
                             np.full((4, 2), 0.5))
    assert metrics == {"rank_1": 1.0, "eer": 0.0, "open_set_auroc": 1.0}
