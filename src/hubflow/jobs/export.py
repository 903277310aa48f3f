"""Export as the stage `export_inference_program` asks for it, in a worker process. Must not import Prefect."""

from pathlib import Path
from typing import Any

from hubflow.inference.export import write_export
from hubflow.inference.verification import verify_export, what_was_trained
from hubflow.programs.artifacts import open_session
from hubflow.schemas.export import VERIFICATION, ExportSettings, VerificationRequest
from hubflow.schemas.labels import LabelMap
from hubflow.schemas.references import CheckpointRef, EncodedRef, EvaluationRef
from hubflow.store.store import Store
from hubflow.workers.connection import Connection


def export_in_worker(request: dict[str, Any], connection: Connection) -> None:
    """Write the exported folder, all but its card and its manifest, and hold the program to the trained one.

    Args:
        request: `checkpoint`, `encoded`, `evaluation` and `settings` as the stage has them, `sizes` of the inputs, `store` (a
            folder here), `folder` to write.
        connection: to the stage, which has the exported program tried by another process when it is called with `verify`.

    Raises:
        HubflowError: as the stage does.
    """
    checkpoint, encoded = CheckpointRef.model_validate(request["checkpoint"]), EncodedRef.model_validate(request["encoded"])
    evaluation = EvaluationRef.model_validate(request["evaluation"])
    settings, folder, store = (
        ExportSettings.model_validate(request["settings"]),
        Path(request["folder"]),
        Store(request["store"]),
    )
    label_map = LabelMap.load(store.open(encoded).folder / "label_map.json")
    trained = store.open(checkpoint).folder
    session = open_session(checkpoint.task, store, "cpu")
    session.load(trained)
    written = session
    if settings.precision != "float32":
        written = open_session(checkpoint.task, store, "cpu", settings.precision)
        written.load(trained)
    write_export(written, folder, label_map, encoded.dataset.rows_kind, request["sizes"])

    def verify(asked: VerificationRequest) -> None:
        connection.call("verify", request=asked.model_dump(mode="json"))

    verification = verify_export(verify, what_was_trained(session, store, encoded, evaluation, label_map), folder, settings)
    (folder / VERIFICATION).write_text(verification.model_dump_json(indent=1) + "\n", encoding="utf-8")
