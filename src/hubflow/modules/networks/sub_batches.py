"""Sub-batches: shares of a batch's rows that a program computes side by side, on a core each.

Most of Paddle's CPU operators run in one thread, but its executor runs operators that do not wait for each other in several.
So a network that is built once for each share of the rows keeps as many cores busy as there are sub_batches.
"""

import itertools
from collections.abc import Callable
from typing import Any

from hubflow.runtime.paddle_import import paddle, zeros_variable

Dropout = Callable[[Any, float], Any]
SEED = "dropout_seed"
"""Variable `[1]`: a whole number below 2**24 that every dropout of the step is drawn from."""


def in_sub_batches(x: Any, sub_batches: int) -> list[Any]:
    """The rows of `x` in as many shares as there are sub_batches; none is empty where there are as many rows."""
    if sub_batches == 1:
        return [x]
    rows = paddle.shape(x)[0]
    cuts = [rows * sub_batch // sub_batches for sub_batch in range(sub_batches + 1)]
    shares = paddle.split(x, [end - start for start, end in itertools.pairwise(cuts)])  # of slices the gradient is slow
    sizes = list(x.shape[1:])
    return list(shares) if -1 in sizes else [share.reshape([-1, *sizes]) for share in shares]  # which the split forgets


def joined(shares: list[Any]) -> Any:
    """The rows of all sub_batches, in order."""
    return shares[0] if len(shares) == 1 else paddle.concat(shares)


class SeededDropout:
    """Dropout whose masks are functions of `SEED` and of the place in the program: sub_batches draw in no fixed order."""

    def __init__(self) -> None:
        self._seed = zeros_variable(SEED, [1])
        self._places = 0

    def __call__(self, x: Any, probability: float) -> Any:
        """`x` with elements zeroed by `probability` in training, the others scaled up."""
        if not probability:
            return x
        self._places += 1
        seed = (self._seed + float(self._places)).astype("int32")
        return paddle._C_ops.dropout(x, seed, probability, False, "upscale_in_train", 0, False)
