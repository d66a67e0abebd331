"""Metrics: numbers from outputs and labels, and from outputs and the original's outputs.

They are counted here and compared with scikit-learn's in tests: each process that measures would import it for 2 s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from whet.data.preprocess import probabilities

if TYPE_CHECKING:
    from whet.types import Array


def decide(outputs: Array, *, logits: bool) -> Array:
    """Return the class (N,) that outputs (N, classes), (N, 1) or (N,) choose."""
    if outputs.ndim == 1 or outputs.shape[-1] == 1:
        return (outputs.reshape(len(outputs)) > (0.0 if logits else 0.5)).astype(np.int64)
    return np.asarray(outputs.reshape(len(outputs), -1).argmax(axis=1))


def classification(outputs: Array, labels: Array, *, logits: bool) -> dict[str, float]:
    """Return the metrics of a classifier; means over classes are unweighted (macro), over classes with samples.

    Accuracy; cross-entropy (nats; a probability counts as 1e-12 at least); precision, sensitivity (recall), F1;
    balanced accuracy; G-mean, the geometric mean of the classes' sensitivities (Kubat and Matwin 1997); AUC, one
    against the rest; worst class, the least sensitivity of any class.
    """
    chosen = decide(outputs, logits=logits)
    precision, recall, f1 = _scores_of_classes(chosen, labels)
    shares = probabilities(outputs, softmax=logits)
    return {
        "accuracy": float((chosen == labels).mean()),
        "cross_entropy": _cross_entropy(shares, labels),
        "balanced_accuracy": float(recall.mean()),
        "precision": float(precision.mean()),
        "sensitivity": float(recall.mean()),
        "f1": float(f1.mean()),
        "g_mean": g_mean(recall),
        "auc": _auc(shares, labels),
        "worst_class": float(recall.min()),
    }


def _scores_of_classes(chosen: Array, labels: Array) -> tuple[Array, Array, Array]:
    """Return precision, recall and F1 (K,) of the K classes with samples; a class never chosen has precision 0."""
    present, place, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    right = np.bincount(place, chosen == labels)
    times = np.bincount(chosen, minlength=int(present[-1]) + 1)[present]
    return right / np.maximum(times, 1), right / sizes, 2 * right / (times + sizes)


def sensitivities(right: Array, labels: Array) -> Array:
    """Return the share of right samples of each class that has samples, in the classes' order.

    Args:
        right: (N,) bool.
        labels: (N,) class numbers.
    """
    _, place, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    return np.asarray(np.bincount(place, right) / sizes)


def g_mean(shares: Array) -> float:
    """Return the geometric mean of the classes' sensitivities (K,); 0 if any is."""
    return float(np.exp(np.log(np.maximum(shares, 1e-300)).mean())) if shares.all() else 0.0


def confusion(outputs: Array, labels: Array, *, logits: bool, classes: int) -> Array:
    """Return counts (classes, classes): row the label, column what was chosen."""
    counts = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(counts, (labels, decide(outputs, logits=logits)), 1)
    return counts


def regression(outputs: Array, labels: Array) -> dict[str, float]:
    """Return mean squared error (the loss), MAE, RMSE, and R2 over all elements (NaN for a single one)."""
    values, wanted = outputs.reshape(len(labels), -1), labels.reshape(len(labels), -1)
    error = values.astype(np.float64) - wanted
    mse = float((error**2).mean())
    return {
        "loss": mse,
        "mae": float(np.abs(error).mean()),
        "rmse": float(np.sqrt(mse)),
        "r2": _explained_share(error, wanted) if wanted.size > 1 else float("nan"),
    }


def _explained_share(error: Array, wanted: Array) -> float:
    """Return R2: 1 - the squares of the errors over those of the labels around their mean.

    Where the labels are all equal: 1 without an error, else 0 (as scikit-learn has it).
    """
    left = float((error**2).sum())
    spread = float(((wanted.astype(np.float64) - wanted.mean(dtype=np.float64)) ** 2).sum())
    return 1 - left / spread if spread > 0 else float(left == 0)


def similarity(outputs: Array, scores: Array) -> dict[str, float]:
    """Return how well the likeness of pairs follows the scores that people gave them.

    Likeness is the cosine of the two sides. Spearman: the correlation of the ranks, equal values sharing their mean
    rank; Pearson: of the values. A likeness that is the same for every pair tells nothing: 0.

    Args:
        outputs: (N, 2, ...), the model's outputs for both sides of each pair.
        scores: (N,) or (N, 1).
    """
    likeness, wanted = likenesses(outputs), scores.reshape(len(scores)).astype(np.float64)
    return {
        "spearman": correlation(ranks(likeness), ranks(wanted)),
        "pearson": correlation(likeness, wanted),
    }


def likenesses(outputs: Array) -> Array:
    """Return the cosine of the two sides of each pair (N, 2, ...)."""
    sides = outputs.reshape(len(outputs), 2, -1).astype(np.float64)
    return _cosines(sides[:, 0], sides[:, 1])


def ranks(values: Array) -> Array:
    """Return the rank of each of (N,) values from 1, equal ones sharing their mean rank."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((counts.cumsum() - (counts - 1) / 2)[place])


def correlation(a: Array, b: Array) -> float:
    """Return Pearson's correlation of two (N,); 0 where either is constant."""
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    a, b = a - a.mean(), b - b.mean()
    return float((a @ b) / np.sqrt((a @ a) * (b @ b)))


def fidelity(outputs: Array, original: Array, *, classes: bool, logits: bool = True) -> dict[str, float]:
    """Return how near outputs (N, ...) come to the original's.

    SQNR: ten times the decimal logarithm of the original's energy over the energy of the difference, in dB.
    Cosine: mean over samples; two rows of zeros are alike. Explained: 1 - energy of the difference over the
    original's variance, all columns together (R2 with the original as the truth).
    For classifiers also agreement (share of samples with the same choice) and KL, the mean divergence of the
    probabilities from the original's, in nats.
    """
    a, b = (
        original.reshape(len(original), -1).astype(np.float64),
        outputs.reshape(len(outputs), -1).astype(np.float64),
    )
    noise, energy = float(((a - b) ** 2).sum()), float((a**2).sum())
    spread = float(((a - a.mean(axis=0)) ** 2).sum())
    found = {
        "sqnr_db": _decibels(energy, noise),
        "cosine": float(_cosines(a, b).mean()),
        "explained": 1 - noise / spread if spread > 0 else float(noise == 0),
    }
    if classes:
        p, q = probabilities(original, softmax=logits), probabilities(outputs, softmax=logits)
        tiny = 1e-12
        found["kl"] = float((p * (np.log(p + tiny) - np.log(q + tiny))).sum(axis=1).mean())
        same = decide(outputs, logits=logits) == decide(original, logits=logits)
        found["agreement"] = float(same.mean())
    return {name: float(value) for name, value in found.items()}


def _decibels(energy: float, noise: float) -> float:
    if noise == 0:
        return float("inf")
    return 10 * float(np.log10(energy / noise)) if energy > 0 else float("-inf")


def _cosines(a: Array, b: Array) -> Array:
    """Return the cosine of each row of two (N, M); 1 where both are zero, 0 where one is."""
    norm_a, norm_b = np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1)
    norms = norm_a * norm_b
    cosines = (a * b).sum(axis=1) / np.where(norms > 0, norms, 1)
    return np.where((norm_a == 0) & (norm_b == 0), 1.0, cosines)


def are_logits(outputs: Array) -> bool:
    """Tell logits from probabilities: these lie in 0..1 and, over several classes, add up to 1.

    Of probabilities that are whole steps (an INT8 softmax yields multiples of 1/256), each may be half a step off.
    """
    inside = bool((outputs >= 0).all() and (outputs <= 1).all())
    if outputs.ndim == 1 or outputs.shape[-1] == 1:
        return not inside
    if not inside:
        return True
    step = float(outputs[outputs > 0].min(initial=1))
    stepped = step > 1 / 512 and np.allclose(outputs / step, np.rint(outputs / step), atol=1e-3)
    off = max(1e-2, outputs.shape[-1] * step / 2) if stepped else 1e-2
    return not np.allclose(outputs.sum(axis=-1), 1, atol=min(off, 0.5))


def _cross_entropy(shares: Array, labels: Array) -> float:
    chosen = shares[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(chosen, 1e-12)).mean())


def _auc(shares: Array, labels: Array) -> float:
    """Mean over the classes that have samples of the area under one-against-the-rest; NaN for one class."""
    present = np.unique(labels)
    if len(present) < 2:
        return float("nan")
    if shares.shape[1] == 2:
        present = present[1:]
    return float(np.mean([_area(shares[:, one], labels == one) for one in present]))


def _area(scores: Array, positive: Array) -> float:
    """Return the area under the ROC curve by the rank sum of the positive samples (Mann and Whitney 1947).

    NaN if a score is not a number.
    """
    count, others = int(positive.sum()), int((~positive).sum())
    below = float(ranks(scores)[positive].sum()) - count * (count + 1) / 2
    return below / (count * others) if not np.isnan(scores).any() else float("nan")
