"""Convolutions of a training program computed by oneDNN, and nothing else of it."""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from hubflow.programs.precision import ONEDNN
from hubflow.runtime.paddle_import import BUILD_LOCK, paddle

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
        for place, op in enumerate(ops):
            sources = enumerate(op.operands_source())
            inputs = [paddle.static.data(f"{place}.{index}", value.shape, value.dtype) for index, value in sources]
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
