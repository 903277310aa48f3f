"""Export: the inference program and all that is needed to use it, as a folder that stands alone."""

import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from hubflow.errors import ExportError, StoreError, join_limited
from hubflow.files import read_file, read_text
from hubflow.inference.opened_export import ROWS_OF_TASK, SIGNATURE, TOKENIZER
from hubflow.modules.images import ImageRules
from hubflow.modules.inputs import pad_text
from hubflow.modules.lora import merged
from hubflow.modules.module import ImageConfig, check_max_seq_len, context_of
from hubflow.modules.networks.text import TextConfig
from hubflow.modules.tokenizer import load_tokenizer, pad_token_id
from hubflow.programs.inference_program import simplify
from hubflow.programs.operators import checked_program
from hubflow.programs.session import Session
from hubflow.runtime.paddle_import import BUILD_LOCK, paddle
from hubflow.schemas.labels import LabelMap
from hubflow.schemas.references import RowKind
from hubflow.store.artifacts import EXPORTS, LABEL_MAP
from hubflow.store.manifest import MANIFEST, atomic_folder, seal
from hubflow.store.signing import require_signing, sign_export
from hubflow.tasks.task import Task, data_variables
from hubflow.training.resuming import versions

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
        task: of a head on what `Module.context` gave, trained.
        folder: that is not there yet, is empty, or holds an earlier export, which it then replaces.
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
    """The session itself, or one whose program is as it is exported: in one sub-batch, adapters merged into the weights."""
    lora = session.spec.lora
    if lora is None and session.sub_batches == 1:
        return session
    plain = Session(replace(session.spec, lora=None), session.module_folder, session.device, precision=session.precision)
    weights = session.weights()
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
