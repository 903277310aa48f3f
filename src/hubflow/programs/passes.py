"""Passes over programs: shared constants, convolutions by oneDNN, and what inference needs alone."""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from hubflow.programs.precision import ONEDNN
from hubflow.runtime.paddle_import import BUILD_LOCK, paddle

CONSTANTS = ("pd_op.full", "pd_op.full_int_array")
MADE_BY = "op_callstack"


def share_constants(program: Any) -> int:
    """Let equal constants of a program be one operator, the first; how many were dropped.

    Paddle makes a constant anew for each operator that takes it: a fifth of a training program's operators. Each is run in
    every step, and what the executor does before the first step grows with the square of their number. To be called when
    nothing will be added to the program any more.
    """
    first: dict[str, Any] = {}
    dropped = 0
    for op in program.global_block().ops:
        if op.name() not in CONSTANTS:
            continue
        made = op.result(0)
        attributes = {name: value for name, value in op.attrs().items() if name != MADE_BY}
        known = first.setdefault(f"{op.name()} {attributes} {made.type()}", made)
        if not known.is_same(made):
            made.replace_all_uses_with(known)
            op.erase()
            dropped += 1
    return dropped


CONVOLUTIONS = ("conv2d", "conv2d_grad", "depthwise_conv2d", "depthwise_conv2d_grad")
PLACEMENT = "onednn_placement_pass"
_OPT_LEVEL = 3  # of the pass: a manager of a lower one skips it


def convolve_by_onednn(program: Any) -> int:
    """Let oneDNN compute the program's convolutions and their gradients; how many operators that are.

    Paddle's own convolution copies its input for each position of the kernel, and the product that follows is narrow: a step of
    ResNet-18 took 1.4 (64 pixels) to 1.9 (128) times as long with it. Under `FLAGS_use_mkldnn` all operators would be oneDNN's,
    and in test mode, by which batch norms never update their statistics. So the pass behind the flag is run on a program of
    convolutions alone, and what it makes of them takes their place. With such operators Paddle's executor runs one operator
    after the other, each on all threads.
    """
    if not paddle.base.core.is_compiled_with_onednn():
        return 0
    _register_dialect()
    with BUILD_LOCK:
        found = [op for op in program.global_block().ops if op.name().removeprefix("pd_op.") in CONVOLUTIONS]
        apart = _by_onednn(found)
        made = [op for op in apart.global_block().ops if op.name().startswith("onednn_op.")]
        with paddle.static.program_guard(program):
            for own, other in zip(found, made, strict=True):
                copy = other.clone(_mapping(other, own.operands_source()), _clone_options())
                copy.move_before(own)
                copy.set_bool_attr("is_test", False)  # or weights that it has laid out would be taken for those of all runs
                own.replace_all_uses_with(copy.results())
                own.erase()
    return len(found)


def _by_onednn(ops: Sequence[Any]) -> Any:
    """A program of these operators alone, each with inputs of its own, as oneDNN's."""
    program = paddle.static.Program()
    with paddle.static.program_guard(program):
        for position, op in enumerate(ops):
            sources = enumerate(op.operands_source())
            inputs = [paddle.static.data(f"{position}.{index}", value.shape, value.dtype) for index, value in sources]
            op.clone(_mapping(op, inputs), _clone_options())
    manager = paddle.pir.PassManager(_OPT_LEVEL)
    manager.add_pass(PLACEMENT, {})
    manager.run(program)
    return program


def _mapping(op: Any, inputs: Sequence[Any]) -> Any:
    mapping = paddle.pir.IrMapping()
    for own, given in zip(op.operands_source(), inputs, strict=True):
        mapping.add(own, given)
    return mapping


def _clone_options() -> Any:
    return paddle.base.libpaddle.pir.CloneOptions(False, True, True)


@functools.cache
def _register_dialect() -> None:
    """Paddle knows oneDNN's operators only once a program has run under the flag."""
    program, before = paddle.static.Program(), paddle.get_flags([ONEDNN])
    with BUILD_LOCK, paddle.static.program_guard(program, paddle.static.Program()):
        one = paddle.static.data("one", [1], "float32") + 1.0
    paddle.set_flags({ONEDNN: True})
    try:
        feed = {"one": np.ones(1, np.float32)}
        paddle.static.Executor(paddle.CPUPlace()).run(program, feed=feed, fetch_list=[one], scope=paddle.static.Scope())
    finally:
        paddle.set_flags(before)


_LEFT_OVER = ("pd_op.full_int_array", "pd_op.full")  # operators that made what is no longer used


def simplify(program: Any) -> None:
    """Take out of an inference program what does nothing there and keeps oneDNN from fusing: outputs stay as they are.

    Dropout in test mode copies its input. For the sake of its gradient alone a bias is expanded to its product's shape, or part
    of an operator that oneDNN has not; added as a vector it is part of oneDNN's product. Dropout and expanding are a tenth of
    the time of MiniLM-L6.
    """
    block = program.global_block()
    for op in list(block.ops):
        if op.name() == "pd_op.dropout" and op.attrs()["is_test"] and op.attrs()["mode"] == "upscale_in_train":
            _replace(block, op, op.operand_source(0))
        elif op.name() == "pd_op.expand_as" and {user.name() for user in op.results()[0].all_used_ops()} == {"pd_op.add"}:
            _replace(block, op, op.operand_source(0))
        elif op.name() == "pd_op.addmm":
            bias, x, weight = op.operands_source()
            with paddle.static.program_guard(program):
                paddle.pir.set_insertion_point(op)
                product = paddle.matmul(x, weight) + bias
            _replace(block, op, product)
    while unused := [op for op in block.ops if op.name() in _LEFT_OVER and all(one.use_empty() for one in op.results())]:
        for op in unused:
            block.remove_op(op)


def _replace(block: Any, op: Any, value: Any) -> None:
    op.result(0).replace_all_uses_with(value)
    block.remove_op(op)
