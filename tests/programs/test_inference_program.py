"""Simplified inference programs: fewer operators, the same outputs."""

from collections import Counter
from pathlib import Path

import numpy as np
from small_modules import some_texts, text_split

from hubflow.programs.passes import simplify
from hubflow.programs.session import Session
from hubflow.tasks.task import TaskSpec


def test_dropout_and_ways_to_add_biases_go_and_the_outputs_stay(tiny_bert: Path, tmp_path: Path) -> None:
    session = Session(TaskSpec("text_classification", 2, (6,)), tiny_bert, "cpu")
    session.initialise(0)
    texts, labels = some_texts(7)
    feed = text_split(tmp_path, tiny_bert, texts, labels).feed(np.arange(7))
    program = session.task.inference_program()
    fetch = [op.operand_source(0) for op in program.global_block().ops if op.name() == "pd_op.fetch"]
    names = Counter(op.name() for op in program.global_block().ops)
    inputs = {name: value for name, value in feed.items() if name != "label"}
    (before,) = session.run(program, inputs, fetch)
    assert min(names["pd_op.dropout"], names["pd_op.addmm"]) > 3
    assert names["pd_op.expand_as"] > 0
    simplify(program)
    left = Counter(op.name() for op in program.global_block().ops)
    assert (left["pd_op.dropout"], left["pd_op.expand_as"], left["pd_op.addmm"]) == (0, 0, 0)
    assert left["pd_op.matmul"] == names["pd_op.matmul"] + names["pd_op.addmm"]
    (after,) = session.run(
        program, inputs, [op.operand_source(0) for op in program.global_block().ops if op.name() == "pd_op.fetch"]
    )
    np.testing.assert_allclose(after, before, atol=1e-6)
