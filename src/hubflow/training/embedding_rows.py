"""Gradients of large embeddings, kept for the rows that occur in a batch; those of all other rows are zero."""

from typing import Any

from hubflow.runtime.paddle_import import paddle, zeros_variable
from hubflow.training.optimizers import Gradients

WIDENED = "gradient."
"""How the name of a variable begins that has an embedding's gradient for the optimizer, and zeros between updates."""
LARGE = 2**20
"""Weights from which an embedding's rows are worth it."""


class EmbeddingRows:
    """The large embeddings of a program that is being built.

    Paddle's gradient of an embedding has the size of the table: of MiniLM's 11.7 million weights 47 MB of zeros are made,
    squared and clipped at each step for the few hundred rows that a batch has. Here it has those rows until it reaches the
    optimizer, which moves the others too: their momentum goes on.

    Args:
        program: with gradients added to it.
    """

    def __init__(self, program: Any) -> None:
        self._block = program.global_block()
        self._rows: dict[str, Any] = {}
        self._zeroed: list[tuple[Any, Any, Any]] = []

    def narrowed(self, gradients: Gradients) -> Gradients:
        """The gradients, of large embeddings `[rows that occur, size]`."""
        return [(parameter, self._narrow(parameter, gradient)) for parameter, gradient in gradients]

    def widened(self, gradients: Gradients) -> Gradients:
        """What `narrowed` made, and what has been done to it, in the size of the table, until `clear`."""
        return [(parameter, self._widen(parameter, gradient)) for parameter, gradient in gradients]

    def clear(self) -> None:
        """Let what was widened be zeros again; to be called behind the optimizer."""
        for table, rows, values in self._zeroed:
            paddle._C_ops.scatter_(table, rows, paddle.zeros_like(values), True)
        self._zeroed.clear()

    def _narrow(self, parameter: Any, gradient: Any) -> Any:
        op = gradient.get_defining_op()
        count, size = parameter.shape[0], parameter.shape[-1]
        if op.name() != "pd_op.embedding_grad" or count * size < LARGE:
            return gradient
        ids, _, slopes = op.operands_source()
        rows, places = paddle.unique(ids, return_inverse=True)
        table = paddle.zeros([paddle.shape(rows)[0], size])
        op.erase()
        self._rows[parameter.name] = rows
        return paddle._C_ops.embedding_grad(places.reshape(paddle.shape(ids)), table, slopes, -1, False)

    def _widen(self, parameter: Any, gradient: Any) -> Any:
        rows = self._rows.get(parameter.name)
        if rows is None:
            return gradient
        zeros = zeros_variable(f"{WIDENED}{parameter.name}", list(parameter.shape))
        table = paddle._C_ops.scatter_(zeros, rows, gradient, True)
        self._zeroed.append((table, rows, gradient))
        return table
