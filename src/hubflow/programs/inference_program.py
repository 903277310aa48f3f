"""Inference programs without what only training needs. Knows no session, and must not import Prefect."""

from typing import Any

from hubflow.runtime.paddle_import import paddle

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
