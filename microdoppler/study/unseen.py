"""Persons whom no classifier was trained on: can they be told apart by its features, and from the known persons?

A classifier for a closed set of persons is also an embedding: the input of its last layer. These metrics ask how far
that embedding reaches. Windows of one pass overlap, so only images of different passes are compared.
"""
import numpy as np
from sklearn.metrics import roc_auc_score, roc_curve


def unseen_metrics(features: np.ndarray, labels: np.ndarray, passes: np.ndarray, known: np.ndarray,
                   unseen: np.ndarray) -> dict[str, float]:
    """All metrics of a classifier on unseen persons, as fractions; NaN where there are too few passes or persons.

    features: (n, d), of n images of unseen persons; labels: (n,), who they are; passes: (n,), the pass of each image;
    known: (m, classes), the probabilities that the classifier gives to m test images of known persons; unseen: (n,
    classes), those that it gives to the n images.
    """
    similarity = cosine_similarity(features)
    return {"rank_1": rank_one(similarity, labels, passes), "eer": equal_error_rate(similarity, labels, passes),
            "open_set_auroc": open_set_auroc(known, unseen)}


def cosine_similarity(features: np.ndarray) -> np.ndarray:
    """The cosine of the angle between all pairs of feature vectors (n, d): (n, n) in [-1, 1]."""
    unit = features / np.linalg.norm(features, axis=1, keepdims=True).clip(min=np.finfo(np.float32).tiny)
    return unit @ unit.T


def rank_one(similarity: np.ndarray, labels: np.ndarray, passes: np.ndarray) -> float:
    """The share of images whose most similar image of another pass shows the same person.

    similarity: (n, n); labels, passes: (n,). Images of persons with a single pass count as errors of nobody: they are
    no probes, but they stay in the gallery. NaN if there is no probe, or nobody to be mistaken for.
    """
    other_pass = passes[:, None] != passes
    is_probe = (other_pass & (labels[:, None] == labels)).any(axis=1)
    if not is_probe.any() or len(np.unique(labels)) < 2:
        return float("nan")
    nearest = np.where(other_pass, similarity, -np.inf).argmax(axis=1)
    return float((labels[nearest] == labels)[is_probe].mean())


def equal_error_rate(similarity: np.ndarray, labels: np.ndarray, passes: np.ndarray) -> float:
    """The error of deciding whether two images show the same person, at the threshold where both kinds of error are
    equal: 0 is perfect, 0.5 is chance.

    similarity: (n, n); labels, passes: (n,). All pairs of images of different passes are decided. NaN without a pair of
    the same or of different persons.
    """
    first, second = np.triu_indices(len(labels), k=1)
    across = passes[first] != passes[second]
    first, second = first[across], second[across]
    is_same = labels[first] == labels[second]
    if is_same.all() or not is_same.any():
        return float("nan")
    false_accepts, true_accepts, _ = roc_curve(is_same, similarity[first, second])
    false_rejects = 1 - true_accepts
    place = int(np.argmax(false_accepts >= false_rejects))      # the first threshold at which the two have crossed
    before = max(0, place - 1)
    gap_before, gap = (false_rejects - false_accepts)[[before, place]]
    share = 0.0 if gap_before == gap else gap_before / (gap_before - gap)
    return float(false_accepts[before] + share * (false_accepts[place] - false_accepts[before]))


def open_set_auroc(known: np.ndarray, unseen: np.ndarray) -> float:
    """The probability that a known person's image has a higher top probability than an unseen person's: 1 is perfect,
    0.5 is chance (Hendrycks & Gimpel 2017, section 2).

    known: (m, classes), unseen: (n, classes), probabilities. NaN if either is empty.
    """
    if not len(known) or not len(unseen):
        return float("nan")
    return float(roc_auc_score(np.repeat([True, False], [len(known), len(unseen)]),
                               np.concatenate([known.max(axis=1), unseen.max(axis=1)])))
