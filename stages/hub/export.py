"""Export: the inference program and all that is needed to use it, as a folder that stands alone."""

import json
import platform
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hubflow.schemas.labels import LabelMap
from hubflow.schemas.references import RowKind
from hubflow.stages.hub.images import ImageRules
from hubflow.stages.hub.inference_program import simplify
from hubflow.stages.hub.lora import merged
from hubflow.stages.hub.module import ImageConfig
from hubflow.stages.hub.runtime import BUILD_LOCK, paddle
from hubflow.stages.hub.session import Session
from hubflow.stages.hub.task import data_variables
from hubflow.stages.hub.tokenizer import load_tokenizer, pad_token_id

PROGRAM = "program"
SIGNATURE = "signature.json"
LABELS = "label_map.json"
TOKENIZER = "tokenizer.json"


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
    program = session.task.inference_program()
    with BUILD_LOCK:
        simplify(program)
    inputs = data_variables(program)
    outputs = [op.operand_source(0) for op in program.global_block().ops if op.name() == "pd_op.fetch"]
    signature: dict[str, Any] = {
        "task": session.spec.task,
        "rows_kind": rows_kind,
        "precision": session.precision,
        "inputs": {value.name: _described(value) for value in inputs},
        "outputs": {"probs": _described(session.task.variable("probs"))},
    }
    with BUILD_LOCK, paddle.static.scope_guard(session.scope):
        paddle.static.save_inference_model(
            str(folder / PROGRAM),
            inputs,
            outputs,
            paddle.static.Executor(session.place),
            program=program,
            skip_prune_program=True,
        )
    if isinstance(session.config, ImageConfig):
        signature["image"] = {**ImageRules().facts(), **preprocessing, "mean": session.config.mean, "std": session.config.std}
    else:
        tokenizer = load_tokenizer(session.module_folder)
        tokenizer.save(str(folder / TOKENIZER))
        signature["text"] = {**preprocessing, "pad_token_id": pad_token_id(tokenizer)}
    label_map.save(folder / LABELS)
    (folder / SIGNATURE).write_text(json.dumps(signature, indent=1) + "\n", encoding="utf-8")


def as_exported(session: Session) -> Session:
    """The session itself, or one whose program is as it is exported: in a single lane, adapters merged into the weights."""
    lora = session.spec.lora
    if lora is None and session.lanes == 1:
        return session
    plain = Session(replace(session.spec, lora=None), session.module_folder, session.device, precision=session.precision)
    weights = session.weights()
    plain.put(merged(weights, lora.scale) if lora else weights, "the merged weights")
    return plain


def versions() -> dict[str, str]:
    """Versions that a result depends on."""
    packages = ("hubflow", "paddlepaddle", "numpy", "tokenizers", "pillow", "safetensors")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def _described(value: Any) -> dict[str, Any]:
    return {"shape": [int(size) for size in value.shape], "dtype": str(value.dtype).rpartition(".")[2].lower()}
