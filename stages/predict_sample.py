"""Stage predict_sample: label a few rows of a data set with an export, as a user of it would, and keep them."""

import shutil
from pathlib import Path

import pyarrow.parquet as pq

from hubflow.inference.batch.prediction import predict_files
from hubflow.orchestration.tasks import stage
from hubflow.schemas.references import DatasetRef, ExportRef
from hubflow.schemas.settings import PredictSettings
from hubflow.store.outputs import Output
from hubflow.store.store import Store, content_key

PREDICTIONS = "predictions.parquet"
COLUMNS = ("text", "text_pair", "tokens")


def _describe(path: str) -> str:
    return f"sample: {path}"


@stage(_describe)
def predict_sample(export: ExportRef, dataset: DatasetRef, split: str, rows: int, store: str, reuse: bool = True) -> str:
    """Label the first rows of a split with an export, by the stage `predict` and from files, as a user of it would.

    Args:
        export: the export that predicts.
        dataset: whose rows are predicted.
        split: split of the data set.
        rows: number of rows.
        store: folder, or URL, of the store.
        reuse: take what the store already holds for the same content and settings.

    Returns:
        Store-relative path of the predictions (contract of `predict`), in `samples/<key>` beside the rows.

    Raises:
        StoreError: when the export or the data set is missing or altered.
        HubflowError: as `predict` does.
    """
    opened = Store(store)
    inputs = {"export": export, "dataset": dataset, "split": split, "rows": rows}
    key = content_key("predict_sample", inputs)
    if not reuse or opened.find("samples", key) is None:
        source = opened.open(dataset).folder / f"{split}.parquet"
        folder = opened.open(export).folder
        with opened.create("samples", key, holds=[source.parent]) as draft:
            data = _write_rows(source, rows, draft.folder)
            more = {"text_pair_column": "text_pair"} if dataset.rows_kind == "text_pair" else {}
            output = str(draft.folder / PREDICTIONS)
            predict_files(PredictSettings.model_validate({"export": str(folder), "data": str(data), "output": output, **more}))
            Output.named(output, "output").record.unlink()  # the artefact's manifest takes its place
            draft.facts |= inputs
    return f"samples/{key}/{PREDICTIONS}"


def _write_rows(source: Path, rows: int, folder: Path) -> Path:
    """The rows without labels: a table, or a folder of images."""
    table = pq.read_table(source).slice(0, rows)
    columns = [name for name in COLUMNS if name in table.column_names]
    if columns:
        pq.write_table(table.select(columns), folder / "rows.parquet")
        return folder / "rows.parquet"
    images = folder / "images"
    images.mkdir()
    for position, row in enumerate(table.to_pylist()):
        original = Path(row["path"])
        target = images / f"{position:06d}{original.suffix if len(original.suffix) <= len('.jpeg') else ''}"
        if row.get("image") is not None:
            target.write_bytes(row["image"])
        else:
            shutil.copyfile(original, target)
    return images
