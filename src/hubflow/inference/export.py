"""Export: the inference program and all that is needed to use it, as a folder that stands alone."""

import contextlib
import importlib.util
import io
import json
import os
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from hubflow.data.report import environment
from hubflow.errors import ExportError, SettingsError, StoreError, join_limited
from hubflow.files import read_file, read_text
from hubflow.inference.opened_export import ROWS_OF_TASK, SIGNATURE, TOKENIZER
from hubflow.inference.verification import read_verification
from hubflow.modules.images import ImageRules
from hubflow.modules.inputs import Feed, pad_text
from hubflow.modules.module import ImageConfig, check_max_seq_len, context_of
from hubflow.modules.networks.text import TextConfig, merged
from hubflow.modules.tokenizer import load_tokenizer, pad_token_id
from hubflow.programs.operators import checked_program
from hubflow.programs.passes import simplify
from hubflow.programs.session import Session
from hubflow.runtime.paddle_import import BUILD_LOCK, paddle
from hubflow.schemas.labels import LabelMap
from hubflow.schemas.references import RowKind
from hubflow.store.artifacts import EXPORTS, LABEL_MAP
from hubflow.store.manifest import MANIFEST, atomic_folder, seal
from hubflow.store.signing import require_signing, sign_export
from hubflow.tasks.task import Task, data_variables
from hubflow.training.checkpoints import versions

MOST_LABELS = 200
EXAMPLES = {
    "text": '["a text"]',
    "text_pair": '[("a text", "another")]',
    "tokens": '[["words", "of", "a", "sentence"]]',
    "image": '["image.png"]',
}
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")
_MARKS = re.compile(r"([\\`*_{}\[\]()#+!|~$<>&@]|:(?=//)|(?<=www)\.)")


def write_card(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write `card.md` and `card.html` beside the files that they tell of.

    Args:
        folder: an export, with its signature, label map and verification.
        facts: of its manifest.
    """
    view = card_view(folder, facts)
    pages = environment()
    pages.filters |= {"md": markdown_text, "seen": seen_text, "short": _short}
    for name in ("card.md", "card.html"):
        (folder / name).write_text(pages.get_template(name).render(view), encoding="utf-8")


def card_view(folder: Path, facts: Mapping[str, Any]) -> dict[str, Any]:
    """What both cards say."""
    signature = json.loads(read_text(folder / "signature.json"))
    labels = LabelMap.load(folder / "label_map.json").labels
    metrics: Mapping[str, Mapping[str, float]] = facts["metrics"]
    return {
        "facts": facts,
        "signature": signature,
        "task": facts["task"].replace("_", " "),
        "labels": list(enumerate(labels[:MOST_LABELS])),
        "more_labels": len(labels) - MOST_LABELS,
        "metric_names": list(dict.fromkeys(name for values in metrics.values() for name in values)),
        "settings": list(_flat(facts["training"]["settings"])),
        "verification": read_verification(folder),
        "example": EXAMPLES[signature["rows_kind"]],
        "limits": _limits(signature, facts),
    }


def seen_text(value: object) -> str:
    """One line in which characters that are not seen, or that turn the text around, are written as their codes."""
    return _UNSEEN.sub(lambda match: f"\\u{ord(match[0]):04x}", str(value))


def markdown_text(value: object) -> str:
    """`value` as Markdown that shows it: neither HTML nor marks of its own nor a table's end."""
    return _MARKS.sub(r"\\\1", seen_text(value)).replace(r"\<", "&lt;").replace(r"\>", "&gt;").replace(r"\&", "&amp;")


def _short(value: float) -> str:
    return f"{value:.4g}"


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            rows += _flat(value, f"{prefix}{name}.")
        else:
            rows.append((f"{prefix}{name}", json.dumps(value, ensure_ascii=False)))
    return rows


def _limits(signature: Mapping[str, Any], facts: Mapping[str, Any]) -> list[str]:
    found = [
        f"Every row gets one of the {facts['num_classes']} labels, one unlike all that was trained on too.",
        "The metrics are of the rows named here; of rows of another kind nothing was measured.",
    ]
    if "text" in signature:
        cut = "words after that are labelled O, or with the first label" if signature["rows_kind"] == "tokens" else "no more"
        found.append(f"Of a text the first {signature['text']['max_seq_len']} tokens count, special ones included; {cut}.")
    else:
        side = signature["image"]["image_size"]
        found.append(f"An image is scaled to {side} × {side} pixels, whatever its shape.")
        if signature["image"].get("image_rules"):
            red, green, blue = signature["image"]["background"]
            found.append(f"Transparent parts of an image show the colour #{red:02x}{green:02x}{blue:02x}.")
    if not facts["metrics"]:
        found.append("There were no rows to evaluate on but those that it was trained on.")
    found.append("Licence and origin of the pretrained module and of the data are not known here: ask where they are from.")
    return found


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


PROGRAM = "program"
PROBE_BYTES = 65536
TOLERANCE = 1e-4
SMALL_VOCABULARY = 5
"""Ids that every vocabulary has, for a trial."""


def write_export(
    session: Session, folder: Path, label_map: LabelMap, rows_kind: RowKind, preprocessing: dict[str, Any]
) -> None:
    """Write the inference program with the session's weights, its signature, the label map and the tokenizer to `folder`.

    LoRA adapters are merged into the weights: the program that is written has none.

    Args:
        session: with the weights to export in its scope, which stay as they are.
        folder: an existing, empty folder.
        label_map: the task's labels.
        rows_kind: what the model was trained on, and so takes: texts, pairs of texts, lists of words or images.
        preprocessing: `max_seq_len` for text; for images `image_size`, and the rules that their pixels were made by (see
            `ImageRules.facts`), those of today when not given.
    """
    session = as_exported(session)
    task, facts = session.task, {"rows_kind": rows_kind, "precision": session.precision}
    signature = _write_program(task, task.inference_program(), folder, session.scope, session.place) | facts
    _write_rest(folder, signature, label_map, session.config, session.module_folder, preprocessing)


def export(
    task: Task,
    folder: str | Path,
    labels: Sequence[str] | LabelMap,
    rows_kind: RowKind | None = None,
    max_seq_len: int | None = None,
    image_size: int | None = None,
) -> Path:
    """Write a task that was trained by hand as a folder that `Predictor.load` and `hubflow predict` take.

    The weights are those of the current scope: call it under the `scope_guard` that the task was trained under. The folder
    takes its place only when the program that was written gives what the task's inference program gives.

    Args:
        task: a trained task, whose head is on what `Module.context` gave.
        folder: a folder that is not there yet, is empty, or holds an earlier export, which is then replaced.
        labels: name of each class, in the order of their ids.
        rows_kind: what the rows are: `text` or `text_pair`, `tokens`, `image`; by the task's type when None, texts alone.
        max_seq_len: longest row in tokens, longer ones are cut; that of the context when None.
        image_size: side of the images in pixels; the module's own when None.

    Returns:
        The folder.

    Raises:
        ExportError: when the task is not of a context, labels or kind of rows do not fit it, its weights are not in the scope,
            or the exported program gives something else.
        SignatureError: when `trust.keys` asks for signed exports, and this machine cannot sign one.
        StoreError: when the folder holds something else, or cannot be written.
    """
    context, target, scope = context_of(task.main_program()), Path(folder).absolute(), paddle.static.global_scope()
    if context is None:
        raise ExportError("the task's program was not made by Module.context(), so there is no module to export with it")
    module, kind = context.module, rows_kind or ROWS_OF_TASK[task.task_type][0]
    if kind not in ROWS_OF_TASK[task.task_type]:
        raise ExportError(f"rows_kind {kind!r} does not fit {task.task_type}; use {' or '.join(ROWS_OF_TASK[task.task_type])}")
    if context.scope() is not scope:  # where another task's weights may have the same names
        raise ExportError("the task's context() was called in another scope; export under the same scope_guard")
    label_map = _label_map(labels, int(task.variable("probs").shape[-1]))
    _require_values(task, scope)
    _require_free(target)
    require_signing()
    if isinstance(module.config, ImageConfig):
        preprocessing: dict[str, Any] = {"image_size": image_size or module.config.image_size}
    else:
        check_max_seq_len(module.config, max_seq_len)
        preprocessing = {"max_seq_len": max_seq_len or context.max_seq_len}
    with atomic_folder(target) as draft:
        with BUILD_LOCK:
            program = task.inference_program().clone(paddle.pir.IrMapping())  # which is simplified, and the task's is not
        signature = _write_program(task, program, draft, scope, paddle.CPUPlace())
        _write_rest(
            draft,
            {**signature, "rows_kind": kind, "precision": "float32"},
            label_map,
            module.config,
            module.folder,
            preprocessing,
        )
        facts = {
            "task": task.task_type,
            "num_classes": label_map.num_classes,
            "label_map_sha256": label_map.sha256,
            "module": module.name,
            "versions": versions(),
        }
        seal(draft, EXPORTS, facts)
        sign_export(draft)
        _require_same(task, draft, scope, preprocessing.get("image_size"))
    return target


def as_exported(session: Session) -> Session:
    """The session itself, or one whose program is as it is exported.

    That is in one sub-batch, of Paddle's operators alone, with adapters merged into the weights.
    """
    lora = session.spec.lora
    if lora is None and session.sub_batches == 1 and not session.has_kernels:
        return session
    precision = "float32" if session.has_kernels else session.precision
    plain = Session(replace(session.spec, lora=None), session.module_folder, session.device, precision=precision)
    weights = session.weights(copy=False)
    plain.put(merged(weights, lora.scale) if lora else weights, "the merged weights")
    return plain


def _write_program(task: Task, program: Any, folder: Path, scope: Any, place: Any) -> dict[str, Any]:
    """Write an inference program with the scope's weights, simplified; what its signature says of the task and the program."""
    with BUILD_LOCK:
        simplify(program)
    inputs = data_variables(program)
    outputs = [op.operand_source(0) for op in program.global_block().ops if op.name() == "pd_op.fetch"]
    with BUILD_LOCK, paddle.static.scope_guard(scope):
        paddle.static.save_inference_model(
            str(folder / PROGRAM),
            inputs,
            outputs,
            paddle.static.Executor(place),
            program=program,
            skip_prune_program=True,
        )
    _require_room(folder)
    written = folder / f"{PROGRAM}.json"
    checked_program(read_file(written), written)
    return {
        "task": task.task_type,
        "inputs": {value.name: _described(value) for value in inputs},
        "outputs": {"probs": _described(task.variable("probs"))},
    }


def _require_room(folder: Path) -> None:
    """Find out whether the disk became full while Paddle wrote, which says nothing and leaves a part of a file.

    Raises:
        OSError: when there is no room for a little more.
    """
    with tempfile.TemporaryFile(dir=folder) as probe:
        probe.write(bytes(PROBE_BYTES))
        probe.flush()
        os.fsync(probe.fileno())


def _write_rest(
    folder: Path,
    signature: dict[str, Any],
    label_map: LabelMap,
    config: TextConfig | ImageConfig,
    module_folder: Path,
    preprocessing: dict[str, Any],
) -> None:
    """Write what belongs to an inference program: label map, tokenizer and the signature, completed by the preprocessing."""
    if isinstance(config, ImageConfig):
        signature = {**signature, "image": {**ImageRules().facts(), **preprocessing, "mean": config.mean, "std": config.std}}
    else:
        tokenizer = load_tokenizer(module_folder)
        tokenizer.save(str(folder / TOKENIZER))
        signature = {**signature, "text": {**preprocessing, "pad_token_id": pad_token_id(tokenizer)}}
    label_map.save(folder / LABEL_MAP)
    (folder / SIGNATURE).write_text(json.dumps(signature, indent=1) + "\n", encoding="utf-8")


def _require_free(target: Path) -> None:
    """Refuse a folder that holds something else than an export."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    try:
        kind = json.loads(read_text(target / MANIFEST))["kind"]
    except (OSError, ValueError, KeyError, TypeError):
        kind = None
    if kind != EXPORTS:
        raise StoreError(f"{target} is not empty and holds no export; choose another folder, or empty it")


def _label_map(labels: Sequence[str] | LabelMap, num_classes: int) -> LabelMap:
    if isinstance(labels, str):
        raise ExportError(f"labels are the one text {labels!r}; give a list with the name of each class, in the order of ids")
    try:
        label_map = labels if isinstance(labels, LabelMap) else LabelMap(labels=tuple(labels))
    except ValidationError as error:
        raise ExportError(
            f"labels: {error.errors()[0]['msg']}; expected the name of each class, in the order of ids"
        ) from error
    if label_map.num_classes != num_classes:
        raise ExportError(f"{label_map.num_classes} labels were given, but the task has {num_classes} classes; name each once")
    return label_map


def _require_values(task: Task, scope: Any) -> None:
    """Refuse weights that have no value in the scope: of a task that was not started, or was in another scope."""
    parameters = task.inference_program().global_block().all_parameters()
    found = {value.name: scope.find_var(value.name) for value in parameters}
    empty = [name for name, variable in found.items() if variable is None or not variable.get_tensor()._is_initialized()]
    if empty:
        raise ExportError(
            f"{len(empty)} weight(s) have no value in the current scope: {join_limited(empty)}; run the startup program and "
            "train, and export under the same scope_guard"
        )


def _require_same(task: Task, folder: Path, scope: Any, image_size: int | None) -> None:
    """Refuse an export whose program does not give what the task's inference program gives of a few rows."""
    from hubflow.inference.predictor import Predictor

    generator, program = np.random.default_rng(0), task.inference_program()
    if image_size is not None:
        feed: dict[str, Any] = {"image": generator.standard_normal((2, 3, image_size, image_size)).astype(np.float32)}
    else:
        ids = [generator.integers(0, SMALL_VOCABULARY, length) for length in (3, 1)]
        feed = pad_text(ids, [np.zeros_like(row) for row in ids], 0)
    fetched = [op.operand_source(0) for op in program.global_block().ops if op.name() == "pd_op.fetch"]
    needed = {value.name: feed[value.name] for value in data_variables(program)}
    with BUILD_LOCK:
        (expected,) = paddle.static.Executor(paddle.CPUPlace()).run(program, feed=needed, fetch_list=fetched, scope=scope)
    found = Predictor.load(folder).run(feed)
    difference = float(np.abs(found - expected)[: 1 if found.ndim > 2 else None].max())  # noqa: PLR2004 - of padding nothing is said
    if not difference <= TOLERANCE:
        raise ExportError(
            f"the exported program is not the task's: probabilities are up to {difference:.3g} apart, tolerance {TOLERANCE:g}; "
            "no export is kept"
        )


def _described(value: Any) -> dict[str, Any]:
    return {"shape": [int(size) for size in value.shape], "dtype": str(value.dtype).rpartition(".")[2].lower()}
