"""Stage export_inference_program: write the best weights as a folder that stands alone."""

import logging
from typing import Any

from pydantic import BaseModel

from hubflow.errors import ExportError, SettingsError, WorkerError
from hubflow.inference.export import require_onnx, write_card
from hubflow.inference.verification import is_verified
from hubflow.modules.images import ImageRules
from hubflow.orchestration.events import export_event
from hubflow.orchestration.progress import cancel_asked
from hubflow.orchestration.tasks import stage
from hubflow.schemas.export import ExportSettings
from hubflow.schemas.labels import LabelMap
from hubflow.schemas.references import CheckpointRef, EncodedRef, EvaluationRef, ExportRef
from hubflow.schemas.tasks import find_task_type
from hubflow.store.signing import require_signing
from hubflow.store.store import Store, content_key
from hubflow.training.checkpoints import versions
from hubflow.workers.processes import run

FORMAT_VERSION = 6
EXPORT_REMEDY = "Take a smaller module, or a smaller module.max_seq_len"
EXPORT = "hubflow.jobs:export_in_worker"

VERIFY = "hubflow.inference.verification_worker:verify_in_worker"
log = logging.getLogger(__name__)


def _describe(export: ExportRef) -> str:
    return (
        f"{export.path}: {export.task}, {export.num_classes} classes; use it with `hubflow predict <store>/{export.path} DATA`"
    )


@stage(_describe, label="export", event=export_event)
def export_inference_program(
    checkpoint: CheckpointRef,
    encoded: EncodedRef,
    evaluation: EvaluationRef,
    store: str,
    reuse: bool = True,
    settings: ExportSettings = ExportSettings(),  # noqa: B008 - frozen
) -> ExportRef:
    """Write the best weights as a folder that stands alone: program, labels, preprocessing, signature, metrics, checksums.

    Before the folder is kept, a fresh process loads the program and compares its probabilities with those of the trained one:
    `verification.json` (`Verification`). `card.md` and `card.html` tell a person what it is.

    Args:
        checkpoint: the weights to export.
        encoded: rows that the program is verified on; their preprocessing goes into the folder.
        evaluation: whose metrics go into the folder.
        store: folder, or URL, of the store.
        reuse: take what the store already holds for the same content and settings.
        settings: precision, ONNX, and what is measured.

    Returns:
        Reference to the exported folder.

    Raises:
        ExportError: when the exported program does not give what the trained one gives; nothing is kept then.
        SettingsError: for ONNX without the extra `onnx`, and bfloat16 for images.
        DeviceError: for bfloat16 on a CPU without it.
        LabelMapError: when checkpoint and rows were made from different label maps.
        SignatureError: when `trust.keys` asks for signed exports, and this machine cannot sign one, or the export that the
            store holds is not signed.
    """
    require_signing()
    if settings.onnx:
        require_onnx()
    if settings.precision == "bfloat16":
        _require_text_and_bfloat16(checkpoint)
    opened = Store(store)
    source = opened.open(encoded)
    label_map = LabelMap.load(source.folder / "label_map.json")
    label_map.require_same(checkpoint.task.label_map_sha256, "the encoded rows", "the checkpoint")
    task = checkpoint.task
    trained = opened.open(checkpoint)
    training = {name: trained.facts[name] for name in ("settings", "seed", "best_metric", "best_value", "best_epoch")}
    sizes = {name: source.facts[name] for name in ("max_seq_len", "image_size") if source.facts[name] is not None}
    if "image_size" in sizes:
        sizes |= ImageRules.of(source.facts).facts()
    facts = {
        "task": task.task,
        "prediction": find_task_type(task.task).prediction,
        "num_classes": task.num_classes,
        "label_map_sha256": task.label_map_sha256,
        "metrics": evaluation.metrics,
        "module": task.module.model_dump(),
        "dataset": encoded.dataset.model_dump(),
        "checkpoint": checkpoint.sha256,
        "training": training,
        "fingerprints": {
            "data": encoded.dataset.sha256,
            "settings": content_key(task.sha256, training["settings"], training["seed"], sizes),
        },
        "versions": versions(),
    }
    verify = is_verified()
    if not verify:
        log.warning("the export is not verified: that is switched off by `hubflow.testing.without_verification`")
    key = content_key("export", FORMAT_VERSION, facts, settings.model_dump(), *([] if verify else ["not verified"]))
    artifact = opened.find("exports", key) if reuse else None
    if artifact is None:
        for reference in (task, task.module, encoded.module, evaluation):
            opened.open(reference)  # from storage elsewhere it is fetched here
        with opened.create("exports", key) as draft:
            asked: dict[str, BaseModel] = {
                "checkpoint": checkpoint,
                "encoded": encoded,
                "evaluation": evaluation,
                "settings": settings,
            }
            request: dict[str, Any] = {name: value.model_dump(mode="json") for name, value in asked.items()}
            request |= {"sizes": sizes, "store": str(opened.root), "folder": str(draft.folder), "verify": verify}
            run(EXPORT, request, _verify, cancel_asked, work="export", memory_remedy=EXPORT_REMEDY)
            draft.facts |= facts
            write_card(draft.folder, facts)
        artifact = opened.load("exports", key)
    names = ("task", "num_classes", "label_map_sha256", "metrics")
    return ExportRef(path=artifact.path, sha256=artifact.sha256, **{name: artifact.facts[name] for name in names})


def _verify(kind: str, message: dict[str, Any]) -> None:
    """Have the exported program tried by a process that has not seen the trained one."""
    try:
        run(
            VERIFY,
            message["request"],
            should_stop=cancel_asked,
            work="verification of the export",
            memory_remedy=EXPORT_REMEDY,
        )
    except WorkerError as error:
        raise ExportError(f"the exported program cannot be tried: {error}") from error


def _require_text_and_bfloat16(checkpoint: CheckpointRef) -> None:
    from hubflow.programs.precision import require_bfloat16_inference

    if checkpoint.task.module.module_kind != "text":
        raise SettingsError("export.precision bfloat16 is for text modules: batch norms do not take it; use float32")
    require_bfloat16_inference()
