"""Put the predictions of all parts together, in order, as the one file that was asked for. No Paddle or Prefect here."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from pyarrow import parquet

from hubflow.errors import DataError, StoreError, join_limited
from hubflow.inference.batch.layout import Layout, quarantine_rows
from hubflow.inference.batch.shard import bad_file, predictions_file
from hubflow.inference.batch.writing import write_tables
from hubflow.metrics.prediction_metrics import MAX_EXAMPLES, metrics_of, unreadable_tags
from hubflow.schemas.labels import LabelMap
from hubflow.schemas.parts import PredictionJob, ShardRecord
from hubflow.schemas.settings import PredictSettings
from hubflow.store.outputs import Output
from hubflow.store.store import file_sha256


def write_predictions(
    settings: PredictSettings, work: PredictionJob, layout: Layout, records: Sequence[ShardRecord], output: Output
) -> None:
    """Write the predictions file from parts whose contract was checked when they were written, and that are as they were then.

    Raises:
        StoreError: when a part is missing or altered, or the file cannot be written; what was there is unharmed.
    """
    folder = Path(work.folder)
    for part, record in zip(layout.parts, records, strict=True):
        path = predictions_file(folder, part)
        if not path.is_file() or file_sha256(path) != record.sha256:
            raise StoreError(f"{path}: missing or altered since it was written; predict again")
    with output.write(holds=[folder]) as stream:
        tables = (parquet.read_table(predictions_file(folder, part)) for part in layout.parts)
        write_tables(tables, stream, output.path.suffix, settings.escape_formulas)


def quarantine(
    settings: PredictSettings, work: PredictionJob, layout: Layout, records: Sequence[ShardRecord], output: Output
) -> Path | None:
    """Put the rows that were quarantined beside the predictions; None when there are none.

    Raises:
        DataError: when they are more than `max_invalid_fraction` of all, or all.
    """
    folder, bad = Path(work.folder), sum(record.bad for record in records)
    files = {part.number: bad_file(folder, part) for part, record in zip(layout.parts, records, strict=True) if record.bad}
    path = quarantine_rows(folder, len(layout.parts), output, files)
    if bad and (layout.invalid + bad > settings.max_invalid_fraction * layout.read or layout.invalid + bad == layout.read):
        first = pd.read_parquet(next(iter(files.values())))["path"]
        error = DataError(
            f"{work.source}: {bad} image(s) cannot be decoded: {join_limited(first, MAX_EXAMPLES)}; {layout.invalid + bad} of "
            f"{layout.read} rows are quarantined in {path}; max_invalid_fraction is {settings.max_invalid_fraction}: mend or "
            "remove them, or raise it"
        )
        error.quarantine = path
        raise error
    return path


def evaluated(records: Sequence[ShardRecord], label_map: LabelMap, is_sequence: bool) -> tuple[dict[str, float], list[str]]:
    """Metrics against the data's labels, and what there is to note about them."""
    rows, labelled, unknown = (sum(getattr(one, name) for one in records) for name in ("rows", "labelled", "unknown"))
    if unknown:
        examples = [text for record in records for text in record.unknown_examples]
        more = f", … ({unknown - MAX_EXAMPLES} more)" if unknown > MAX_EXAMPLES else ""
        named = ", ".join(examples[:MAX_EXAMPLES])
        return {}, [f"no metrics: {unknown} label(s) are not in the export's label map: {named}{more}"]
    if not labelled:
        return {}, []
    if is_sequence and (reason := unreadable_tags(label_map)):
        return {}, [f"no metrics: {reason}"]
    notes = [] if labelled == rows else [f"metrics are of the {labelled} rows, of {rows}, that have a label"]
    return metrics_of([record.counts for record in records], label_map.num_classes, is_sequence), notes
