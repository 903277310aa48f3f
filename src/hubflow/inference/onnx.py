"""The inference program as ONNX: converted by paddle2onnx, run by onnxruntime. Must not import Prefect or a stage."""

import contextlib
import importlib.util
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hubflow.errors import ExportError, SettingsError
from hubflow.modules.inputs import Feed

PROGRAM_ONNX = "program.onnx"
OPSET = 17
"""The first with LayerNormalization, so that it need not be taken apart."""
ERRORS_ONLY = 3
Run = Callable[[Feed], NDArray[np.float32]]


def require_onnx() -> None:
    """Refuse to go on without the extra `onnx`.

    Raises:
        SettingsError: naming what is missing.
    """
    missing = [name for name in ("paddle2onnx", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise SettingsError(
            f"export.onnx needs {' and '.join(missing)}: install the extra with `uv sync --extra onnx` (or pip install "
            "'hubflow[onnx]'; paddle2onnx has no wheel for Python 3.13), or leave export.onnx out"
        )


def write_onnx(folder: Path) -> int:
    """Write `program.onnx` beside the inference program in `folder`, rows and lengths left open, and return its opset.

    paddle2onnx would optimise with polygraphy, which installs what it misses by pip, from another index than PyPI, as soon as
    it folds constants: it is not called, for nothing of it is needed.

    Raises:
        ExportError: when paddle2onnx cannot convert the program, with what it said.
    """
    os.environ["POLYGRAPHY_AUTOINSTALL_DEPS"] = "0"
    import paddle2onnx

    program, weights = folder / "program.json", folder / "program.pdiparams"
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            content: bytes = paddle2onnx.export(str(program), str(weights), None, OPSET, optimize_tool="none")
    except Exception as error:  # it logs what went wrong and then fails on what it has not made
        raise ExportError(f"paddle2onnx cannot convert the program: {said.getvalue().strip()[-1000:] or error}") from error
    (folder / PROGRAM_ONNX).write_bytes(content)
    return OPSET


def onnx_runner(folder: Path, threads: int) -> Run:
    """What gives probabilities of a batch by `program.onnx`, through onnxruntime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = ERRORS_ONLY  # it warns of each output whose number of rows is not known before
    session = onnxruntime.InferenceSession(str(folder / PROGRAM_ONNX), options, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]

    def run(feed: Feed) -> NDArray[np.float32]:
        output: Any = session.run(None, {name: feed[name] for name in names})[0]
        return output  # type: ignore[no-any-return]

    return run
