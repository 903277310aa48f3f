"""Steps on small sessions, for the tests of what training moves: plain gradient descent, nothing of the training loop."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from hubflow.programs.session import Session
from hubflow.runtime.paddle_import import BUILD_LOCK, paddle


@contextmanager
def own_scope() -> Iterator[Any]:
    """A scope that stands for a process's own, emptied in the end: Paddle itself keeps every scope until the process ends."""
    scope = paddle.static.Scope()
    try:
        with paddle.static.scope_guard(scope):
            yield scope
    finally:
        scope.erase(scope.local_var_names())
        scope.drop_kids()


def add_descent(session: Session, kind: Any = paddle.optimizer.SGD) -> set[str]:
    """An optimizer (gradient descent by default) of all that is trained; the variables that have a gradient."""
    main, startup = session.task.main_program(), session.task.startup_program()
    with BUILD_LOCK, paddle.utils.unique_name.guard(), paddle.static.program_guard(main, startup):
        trained = [value for value in main.global_block().all_parameters() if value.trainable]
        pairs = paddle.static.append_backward(session.task.variable("loss"), parameter_list=trained)
        optimizer = kind(0.1, parameters=trained)
        optimizer.apply_gradients([pair for pair in pairs if pair[1] is not None])
        return {parameter.name for parameter, gradient in pairs if gradient is not None}


def step(session: Session, feed: dict[str, Any]) -> None:
    session.run(session.task.main_program(), feed, [session.task.variable("loss")])


def moved(session: Session, before: dict[str, Any]) -> set[str]:
    after = session.weights()
    return {name for name, value in before.items() if not np.array_equal(value, after[name])}
