"""Metrics of a classifier's predictions: accuracy, macro-F1, calibration, recall per user, confusion matrix."""
import numpy as np
from sklearn.metrics import confusion_matrix, f1_score, log_loss

ECE_BINS = 15       # Guo et al. 2017, section 4


def score(probabilities: np.ndarray, labels: np.ndarray) -> dict:
    """All metrics of the predictions for n images, as plain values.

    probabilities: (n, classes) in [0, 1]; labels: (n,) int64. Returns accuracy, macro_f1 and ece, which are fractions;
    nll, the mean negative log-likelihood of the true labels in nats; recalls {label: fraction}; confusion, (classes,
    classes) counts as lists, a row per true label.
    """
    predicted, classes = probabilities.argmax(axis=1), np.arange(probabilities.shape[1])
    confusion = confusion_matrix(labels, predicted, labels=classes)
    return {"accuracy": float((predicted == labels).mean()),
            "macro_f1": float(f1_score(labels, predicted, labels=np.unique(labels), average="macro", zero_division=0)),
            "ece": expected_calibration_error(probabilities, labels),
            "nll": float(log_loss(labels, probabilities, labels=classes)), "recalls": class_recalls(confusion),
            "confusion": confusion.tolist()}


def class_recalls(confusion: np.ndarray) -> dict[int, float]:
    """Recall of each class that has test images: {label: fraction of them that were classified correctly}.

    confusion: (classes, classes) counts, a row per true label.
    """
    return {label: float(row[label] / row.sum()) for label, row in enumerate(confusion) if row.sum()}


def expected_calibration_error(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The mean gap between confidence and accuracy, over ECE_BINS bins of equal width in confidence, as a fraction.

    probabilities: (n, classes); labels: (n,) int64. Bins are weighted by their number of images (Naeini et al. 2015;
    Guo et al. 2017, equation 3).
    """
    confidence, is_correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    bins = np.minimum((confidence * ECE_BINS).astype(int), ECE_BINS - 1)
    gaps = np.bincount(bins, weights=is_correct - confidence, minlength=ECE_BINS)
    return float(np.abs(gaps).sum() / len(labels))
