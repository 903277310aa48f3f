"""Put the predictions of all parts together, in order, as the one file that was asked for. No Paddle or Prefect here."""

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as arrow
from pyarrow import parquet

from hubflow.schemas.errors import bounded
from hubflow.schemas.folders import StoreError, sync
from hubflow.schemas.labels import LabelMap
from hubflow.schemas.parts import PartRecord, PartRef, PredictionWork
from hubflow.schemas.settings import PredictSettings
from hubflow.stages.data.staging import unified, with_columns
from hubflow.stages.errors import DataError
from hubflow.stages.prediction.layout import Layout, set_aside
from hubflow.stages.prediction.measuring import MAX_EXAMPLES, metrics_of
from hubflow.stages.prediction.part import bad_file, predictions_file
from hubflow.stages.store import file_sha256


def write_predictions(work: PredictionWork, layout: Layout, records: Sequence[PartRecord], output: Path) -> None:
    """Write the predictions file from parts whose contract was checked when they were written, and that are as they were then.

    Raises:
        StoreError: when a part is missing or altered, or the file cannot be written; what was there is unharmed.
        ContractError: when a further column is of one type in one part and of another in the next.
    """
    folder = Path(work.folder)
    temporary = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        for part, record in zip(layout.parts, records, strict=True):
            path = predictions_file(folder, part)
            if not path.is_file() or file_sha256(path) != record.sha256:
                raise StoreError(f"{path}: missing or altered since it was written; predict again")
        output.parent.mkdir(parents=True, exist_ok=True)
        WRITERS[output.suffix](_tables(folder, layout.parts, work.source), temporary)
        sync(temporary)
        temporary.replace(output)
    except OSError as error:
        raise StoreError(f"{output}: the predictions cannot be written ({error})") from error
    finally:
        with contextlib.suppress(OSError):  # it must not take the place of the error being raised
            temporary.unlink(missing_ok=True)


def quarantine(
    settings: PredictSettings, work: PredictionWork, layout: Layout, records: Sequence[PartRecord], output: Path
) -> Path | None:
    """Put the rows that were set aside beside the predictions; None when there are none.

    Raises:
        DataError: when they are more than `max_invalid_share` of all, or all.
    """
    folder, bad = Path(work.folder), sum(record.bad for record in records)
    files = [bad_file(folder, part) for part, record in zip(layout.parts, records, strict=True) if record.bad]
    path = set_aside(folder, layout.parts, output, files)
    if bad and (layout.invalid + bad > settings.max_invalid_share * layout.read or layout.invalid + bad == layout.read):
        first = pd.read_parquet(files[0])["path"]
        raise DataError(
            f"{work.source}: {bad} image(s) cannot be decoded: {bounded(first, MAX_EXAMPLES)}; {layout.invalid + bad} of "
            f"{layout.read} rows are set aside in {path}; max_invalid_share is {settings.max_invalid_share}: mend or remove "
            "them, or raise it"
        )
    return path


def judged(records: Sequence[PartRecord], label_map: LabelMap, is_sequence: bool) -> tuple[dict[str, float], list[str]]:
    """Metrics against the data's labels, and what there is to note about them."""
    rows, labelled, unknown = (sum(getattr(one, name) for one in records) for name in ("rows", "labelled", "unknown"))
    if unknown:
        examples = [text for record in records for text in record.unknown_examples]
        more = f", … ({unknown - MAX_EXAMPLES} more)" if unknown > MAX_EXAMPLES else ""
        named = ", ".join(examples[:MAX_EXAMPLES])
        return {}, [f"no metrics: {unknown} label(s) are not in the export's label map: {named}{more}"]
    if not labelled:
        return {}, []
    notes = [] if labelled == rows else [f"metrics are of the {labelled} rows, of {rows}, that have a label"]
    return metrics_of([record.counts for record in records], label_map.num_classes, is_sequence), notes


def _tables(folder: Path, parts: Sequence[PartRef], source: str) -> Iterator[Any]:
    """The predictions of each part, with the columns of all; the schema alone when there is no row."""
    paths = [predictions_file(folder, part) for part in parts]
    schema = unified([parquet.read_schema(path).remove_metadata() for path in paths], source)
    for path in paths:
        yield with_columns(parquet.read_table(path), schema)


def _to_parquet(tables: Iterator[Any], path: Path) -> None:
    writer = None
    for table in tables:
        writer = writer or parquet.ParquetWriter(path, table.schema)
        writer.write_table(table)
    if writer is not None:
        writer.close()


def _to_csv(tables: Iterator[Any], path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        for number, table in enumerate(tables):
            frame = table.to_pandas()
            for name in [field.name for field in table.schema if arrow.types.is_list(field.type) or _is_large(field.type)]:
                frame[name] = [json.dumps(value, ensure_ascii=False) for value in table.column(name).to_pylist()]
            frame.to_csv(stream, index=False, header=number == 0)


def _to_jsonl(tables: Iterator[Any], path: Path) -> None:
    with path.open("w", encoding="utf-8") as stream:
        for table in tables:
            if len(table):
                table.to_pandas().to_json(stream, orient="records", lines=True, force_ascii=False)


def _is_large(kind: Any) -> bool:
    return bool(arrow.types.is_large_list(kind))


WRITERS = {".parquet": _to_parquet, ".csv": _to_csv, ".jsonl": _to_jsonl}
