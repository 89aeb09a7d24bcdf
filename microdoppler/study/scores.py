"""How good predictions are: accuracy, macro-F1, recall per user, calibration, confusion."""
import numpy as np
from sklearn.metrics import confusion_matrix, f1_score

ECE_BINS = 15       # Guo et al. 2017, section 4


def score(probabilities: np.ndarray, labels: np.ndarray) -> dict:
    """probabilities: (n, classes) in [0, 1]; labels: (n,) int64 → accuracy, macro_f1 and ece as fractions, recalls:
    {user number: fraction of the user's images}, confusion: (classes, classes) counts, row = true label."""
    predicted, classes = probabilities.argmax(axis=1), np.arange(probabilities.shape[1])
    confusion = confusion_matrix(labels, predicted, labels=classes)
    return {"accuracy": float((predicted == labels).mean()),
            "macro_f1": float(f1_score(labels, predicted, labels=np.unique(labels), average="macro", zero_division=0)),
            "ece": expected_calibration_error(probabilities, labels), "recalls": user_recalls(confusion),
            "confusion": confusion.tolist()}


def user_recalls(confusion: np.ndarray) -> dict[int, float]:
    """(classes, classes) counts → {user number: share of the user's test images that were recognised}."""
    return {label + 1: float(row[label] / row.sum()) for label, row in enumerate(confusion) if row.sum()}


def expected_calibration_error(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The mean gap between confidence and accuracy over ECE_BINS bins of equal width, weighted by their images
    (Naeini et al. 2015; Guo et al. 2017, equation 3)."""
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    bins = np.minimum((confidence * ECE_BINS).astype(int), ECE_BINS - 1)
    gaps = np.bincount(bins, weights=right - confidence, minlength=ECE_BINS)
    return float(np.abs(gaps).sum() / len(labels))
