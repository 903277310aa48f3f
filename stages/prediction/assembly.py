"""Put the predictions of all parts together, in order, as the one file that was asked for. No Paddle or Prefect here."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from pyarrow import parquet

from hubflow.schemas.errors import bounded
from hubflow.schemas.folders import StoreError
from hubflow.schemas.labels import LabelMap
from hubflow.schemas.outputs import Output
from hubflow.schemas.parts import PartRecord, PredictionWork
from hubflow.schemas.settings import PredictSettings
from hubflow.stages.errors import DataError
from hubflow.stages.prediction.layout import Layout, set_aside
from hubflow.stages.prediction.measuring import MAX_EXAMPLES, metrics_of, unreadable_tags
from hubflow.stages.prediction.part import bad_file, predictions_file
from hubflow.stages.prediction.writing import write_tables
from hubflow.stages.store import file_sha256


def write_predictions(
    settings: PredictSettings, work: PredictionWork, layout: Layout, records: Sequence[PartRecord], output: Output
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
    settings: PredictSettings, work: PredictionWork, layout: Layout, records: Sequence[PartRecord], output: Output
) -> Path | None:
    """Put the rows that were quarantined beside the predictions; None when there are none.

    Raises:
        DataError: when they are more than `max_invalid_share` of all, or all.
    """
    folder, bad = Path(work.folder), sum(record.bad for record in records)
    files = {part.number: bad_file(folder, part) for part, record in zip(layout.parts, records, strict=True) if record.bad}
    path = set_aside(folder, len(layout.parts), output, files)
    if bad and (layout.invalid + bad > settings.max_invalid_share * layout.read or layout.invalid + bad == layout.read):
        first = pd.read_parquet(next(iter(files.values())))["path"]
        error = DataError(
            f"{work.source}: {bad} image(s) cannot be decoded: {bounded(first, MAX_EXAMPLES)}; {layout.invalid + bad} of "
            f"{layout.read} rows are quarantined in {path}; max_invalid_share is {settings.max_invalid_share}: mend or remove "
            "them, or raise it"
        )
        error.quarantine = path
        raise error
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
    if is_sequence and (reason := unreadable_tags(label_map)):
        return {}, [f"no metrics: {reason}"]
    notes = [] if labelled == rows else [f"metrics are of the {labelled} rows, of {rows}, that have a label"]
    return metrics_of([record.counts for record in records], label_map.num_classes, is_sequence), notes
