"""An exported program that does more than compute is refused by the operator's name, before an engine is made of it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_exports import Exported

from hubflow.errors import ProgramError
from hubflow.hub import Module, Predictor, create_img_cls_task, export
from hubflow.programs.operators import ALLOWED, checked_program
from hubflow.runtime.paddle_import import paddle
from hubflow.store.manifest import seal

Program = dict[str, Any]


def ops_of(program: Program) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = program["program"]["regions"][0]["blocks"][0]["ops"]
    return found


def operator(name: str, **more: Any) -> dict[str, Any]:
    return {"#": name, "A": [], "I": [], "O": [], "OA": [], **more}


def within(name: str) -> dict[str, Any]:
    """An operator within a region of another."""
    region = {"#": "region_0", "blocks": [{"#": "block_0", "args": [], "ops": [operator(name)]}]}
    return operator("1.add", regions=[region])


def changed(exported: Exported, folder: Path, change: Callable[[Program], Any]) -> Path:
    """A copy of an export with another program, sealed anew, as somebody who knows how would do it."""
    shutil.copytree(exported.folder, folder)
    file = folder / "program.json"
    program = json.loads(file.read_text(encoding="utf-8"))
    change(program)
    file.write_text(json.dumps(program), encoding="utf-8")
    seal(folder, "exports", json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["facts"])
    return folder


@pytest.mark.parametrize(
    "name",
    [
        "1.save", "1.save_combine", "1.load", "1.load_combine", "1.py_func", "1.print", "1.send_v2", "1.recv_v2", "1.read_file",
        "1.c_allreduce_sum", "1.run_program", "1.assert", "1.if", "1.while", "1.memcpy", "2.yield", "3.anything", "4._jit",
        "save", "0.parameter", "0.set_parameter", "1.ADD", "1.add ", "1.", "",
    ],
)  # fmt: skip
@pytest.mark.parametrize("place", [operator, within], ids=["in the program", "in a region of an operator"])
def test_what_does_not_compute_is_refused_by_name(
    name: str, place: Callable[[str], Any], tiny_exports: dict[str, Exported], tmp_path: Path
) -> None:
    folder = changed(tiny_exports["text"], tmp_path / "export", lambda program: ops_of(program).insert(3, place(name)))
    with pytest.raises(ProgramError, match="operator") as caught:
        Predictor.load(folder)
    assert name.rpartition(".")[2] in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", '{"program": 3}', '{"program": {"regions": {}}}', "[" * 100_000,
        '{"program": {"regions": [{"blocks": [{"ops": [{"#": 1}]}]}]}}',
        '{"program": {"regions": []}, "program": {"regions": []}}',
    ],
)  # fmt: skip
def test_what_is_no_program_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(ProgramError, match="no readable program"):
        checked_program(text.encode(), tmp_path / "program.json")


def test_regions_without_end_are_refused(tmp_path: Path) -> None:
    inner: Any = []
    for _ in range(100):
        inner = [{"blocks": [{"ops": [{"#": "1.add", "regions": inner}]}]}]
    program = {"base_code": {"magic": "pir", "version": 4}, "program": {"regions": inner}}
    with pytest.raises(ProgramError, match="more than 64 deep"):
        checked_program(json.dumps(program).encode(), tmp_path / "program.json")


@pytest.mark.parametrize("kind", ["text", "token", "image"])
def test_what_export_writes_is_allowed(kind: str, tiny_exports: dict[str, Exported]) -> None:
    file = tiny_exports[kind].folder / "program.json"
    assert checked_program(file.read_bytes(), file).parameters


def test_a_task_with_an_operator_that_does_more_is_not_exported(tmp_path: Path) -> None:
    with paddle.static.scope_guard(paddle.static.Scope()):
        _, outputs, program = Module(name="digits").context()
        with paddle.static.program_guard(program):
            feature = paddle.static.Print(outputs["feature_map"])
        task = create_img_cls_task(feature, 2)
        paddle.static.Executor(paddle.CPUPlace()).run(task.startup_program())
        with pytest.raises(ProgramError, match=r"pd_op\.print"):
            export(task, tmp_path / "export", ["a", "b"])
    assert not (tmp_path / "export").exists()


def test_nothing_that_is_allowed_names_what_acts() -> None:
    words = (
        "save",
        "load",
        "read",
        "write",
        "file",
        "print",
        "func",
        "send",
        "recv",
        "call",
        "custom",
        "run",
        "assert",
        "memcpy",
    )
    acting = [name for name in ALLOWED for word in words if word in name.replace("trunc", "")]
    assert acting == []
    assert np.array(["1.matmul" in ALLOWED, "1.relu_" in ALLOWED, "p" in ALLOWED]).all()
