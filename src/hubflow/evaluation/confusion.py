"""Which labels were taken for which: a matrix of few labels, the most frequent mistakes of many. Must not import Paddle."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hubflow.schemas.evaluation import ConfusedPair, Confusion

MAX_MATRIX_LABELS = 100
MAX_PAIRS = 200


def confusion_of(labels: NDArray[np.int64], predicted: NDArray[np.int64], names: Sequence[str]) -> Confusion:
    """Which labels were taken for which, bounded: a matrix up to MAX_MATRIX_LABELS labels, and the MAX_PAIRS worst pairs.

    Args:
        labels: true label ids `[examples]`.
        predicted: predicted label ids `[examples]`.
        names: of the labels.
    """
    size = len(names)
    cells, counts = np.unique(labels * size + predicted, return_counts=True)
    true, guess = np.divmod(cells, size)
    matrix = None
    if size <= MAX_MATRIX_LABELS:
        dense = np.zeros(size * size, np.int64)
        dense[cells] = counts
        matrix = dense.reshape(size, size).tolist()
    wrong = np.flatnonzero(true != guess)
    worst = wrong[np.argsort(-counts[wrong], kind="stable")]
    pairs = [
        ConfusedPair(label=names[true[place]], predicted=names[guess[place]], count=int(counts[place]))
        for place in worst[:MAX_PAIRS]
    ]
    shown = None if matrix is None else list(names)
    return Confusion(labels=shown, counts=matrix, pairs=pairs, left_out=max(0, len(worst) - MAX_PAIRS))
