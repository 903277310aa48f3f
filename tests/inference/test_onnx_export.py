"""ONNX beside the export: verified through onnxruntime, and nothing is installed on the way."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from runs import Run
from small_exports import KINDS, Exported

from hubflow.errors import SettingsError
from hubflow.inference.export import PROGRAM_ONNX, onnx_runner, require_onnx
from hubflow.inference.verification import read_verification
from hubflow.schemas.export import ExportSettings
from hubflow.stages.export_inference_program import export_inference_program
from hubflow.store.manifest import verify_folder

pytestmark = pytest.mark.slow

pytest.importorskip("paddle2onnx")
WITH_ONNX = ExportSettings(onnx=True, latency_rounds=3)


@pytest.mark.parametrize("name", ["digits_run", "text_run"], ids=["images", "texts"])
def test_the_onnx_program_is_sealed_and_proven_beside_the_other(name: str, request: pytest.FixtureRequest) -> None:
    run: Run = request.getfixturevalue(name)
    export = export_inference_program.fn(run.checkpoint, run.encoded, run.evaluation, run.settings.store, settings=WITH_ONNX)
    folder = run.store.root / export.path
    assert PROGRAM_ONNX in verify_folder(folder).files
    verification = read_verification(folder)
    assert verification is not None
    assert verification.onnx is not None
    assert verification.onnx.max_abs_difference <= 1e-5
    assert [probe.rows for probe in verification.onnx.probes] == [probe.rows for probe in verification.probes]
    assert verification.onnx.metric == verification.metric
    assert verification.onnx.size_bytes == (folder / PROGRAM_ONNX).stat().st_size
    assert {size: one.rounds for size, one in verification.onnx.latency_ms.items()} == {"1": 3, "32": 3}
    assert "program.onnx" in (folder / "card.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def converted(tiny_exports: dict[str, Exported], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Exports of each kind with program.onnx, converted by a process in which starting another one, as pip, is an error."""
    folders = {kind: tmp_path_factory.mktemp(f"{kind}-onnx") for kind in KINDS}
    for kind, folder in folders.items():
        for file in tiny_exports[kind].folder.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
    script = f"""
import sys
import paddle2onnx
from pathlib import Path
from hubflow.inference.export import write_onnx
def refuse(event, arguments):
    if event in ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "socket.connect"):
        raise SystemExit(f"{{event}} {{arguments}}")
sys.addaudithook(refuse)
for folder in {json.dumps([str(folder) for folder in folders.values()])}:
    write_onnx(Path(folder))
assert not [name for name in sys.modules if name.startswith("polygraphy")]
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    return folders


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [1, 7])
def test_any_number_of_rows_gives_the_trained_programs_probabilities(
    kind: str, rows: int, tiny_exports: dict[str, Exported], converted: dict[str, Path]
) -> None:
    exported = tiny_exports[kind]
    feed = exported.split.feed(np.arange(rows))
    task = exported.session.task
    (expected,) = exported.session.run(task.test_program(), feed, [task.test_variable("probs")])
    found = onnx_runner(converted[kind], 1)(feed)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_program_that_cannot_be_converted_is_an_error_with_what_was_said(tmp_path: Path) -> None:
    (tmp_path / "program.json").write_text("{}")
    (tmp_path / "program.pdiparams").write_bytes(b"")
    script = f"from pathlib import Path; from hubflow.inference.export import write_onnx; write_onnx(Path({str(tmp_path)!r}))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode != 0
    assert not (tmp_path / PROGRAM_ONNX).exists()


def test_without_the_extra_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # as Python has it of a package that is not there
    with pytest.raises(SettingsError, match=r"export\.onnx needs onnxruntime: install the extra with `uv sync --extra onnx`"):
        require_onnx()
