"""Batch prediction: label the rows of files, or the images of folders, with an exported folder and nothing else."""

import logging
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pandas as pd
from pyarrow import parquet

from hubflow.console import progress_bar
from hubflow.errors import DataError, HubflowError, SettingsError, StoreError, TagError, join_limited
from hubflow.inference.batch.layout import Layout, lay_out, output_of, quarantine_rows, require_free, sources_of
from hubflow.inference.batch.shard import MAX_EXAMPLES, bad_file, predict_part, predictions_file, predictor_of
from hubflow.inference.batch.tables import NUM_TRUNCATED_TOKENS, NUM_TRUNCATED_WORDS, write_tables
from hubflow.inference.opened_export import OpenedExport, open_export
from hubflow.metrics import counts_for
from hubflow.schemas.labels import LabelMap
from hubflow.schemas.references import PredictionJob, ShardRecord, ShardRef
from hubflow.schemas.settings import PredictResult, PredictSettings
from hubflow.store.manifest import locked, not_written, working_folder
from hubflow.store.outputs import Output
from hubflow.store.store import file_sha256, local_folder


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
    try:
        counts = counts_for(label_map, is_sequence)
    except TagError as error:
        return {}, [f"no metrics: {error}"]
    for record in records:
        counts.merge(counts.from_state(record.counts))
    notes = [] if labelled == rows else [f"metrics are of the {labelled} rows, of {rows}, that have a label"]
    return counts.compute(), notes


AT_ONCE = 2
"""Parts under way in one process: one computes while another reads, encodes or writes."""
LOG = logging.getLogger(__name__)
Mapped = Callable[[PredictionJob, Sequence[ShardRef]], Iterator[ShardRecord]]


def predict_files(settings: PredictSettings, mapped: Mapped | None = None) -> PredictResult:
    """Label the rows of files, or the images of folders, with an exported folder and nothing else.

    The output (contract `Predictions`, or `TokenPredictions` of sentences) has one row for each sound input row, in order:
    `row`, the input's columns, `predicted` and `probability`, of texts `num_truncated_tokens` and of sentences
    `num_truncated_words` (what `max_seq_len` cut off), and for classification `probability_<label>` for each label, or
    with `top_k` the lists `top_labels` and `top_probabilities`; of several files, `file` comes first. A column of the input
    that has one of these names is called `source_<name>`. Rows that break their contract, and images that do not decode, are
    quarantined in `<output>.quarantine.parquet`, with all that is wrong with each.

    Memory does not grow with the rows: they are read, predicted and kept in parts. A run that was stopped goes on with the
    parts that were not done. The output takes its place only when complete.

    Args:
        settings: what to predict on, with what, and where the predictions go.
        mapped: predicts the parts and gives their records in order; threads of this process when not given.

    Raises:
        StoreError: when the export is incomplete or altered, or the output cannot be written.
        SignatureError: when `trust.keys` is set, and none of them has signed the export.
        DataError: when the data cannot be read; ContractError when too many rows are quarantined, or all.
        SettingsError: when the format does not fit the export's task, or the output's ending is unknown.
    """
    started = time.perf_counter()
    output = output_of(settings)
    export = local_folder(settings.export)
    opened = open_export(export)
    work = _work(settings, opened, parts_folder(output.path))
    task, label_map = work.task, opened.label_map
    sources = sources_of(settings, task, work.rows_kind, output)
    require_free(output, sources)
    with work_folder(output.path, [path for source in sources for path in source.files]):
        if mapped is None:
            load_ahead(work)
        layout = lay_out(settings, task, sources, work, output)
        records = _records(work, layout, mapped or in_threads)
        path = quarantine(settings, work, layout, records, output)
        write_predictions(settings, work, layout, records, output)
    metrics, notes = evaluated(records, label_map, work.rows_kind == "tokens")
    invalid = layout.invalid + sum(record.bad for record in records)
    return PredictResult(
        export=str(export.absolute()),
        output=str(output.path),
        rows=sum(record.rows for record in records),
        invalid_rows=invalid,
        quarantine=str(path) if path else None,
        metrics=metrics,
        notes=[*notes, *_notes(layout, records, invalid, path), *_truncated(opened, records)],
        seconds=round(time.perf_counter() - started, 3),
    )


def _notes(layout: Layout, records: Sequence[ShardRecord], invalid: int, path: Path | None) -> list[str]:
    from hubflow.modules.images import CHANGES

    notes = [*layout.findings, *([f"{invalid} of {layout.read} rows are quarantined in {path}"] if invalid else [])]
    if layout.empty:
        notes.append(f"{len(layout.empty)} file(s) hold no rows: {join_limited(layout.empty)}")
    if layout.skipped:
        notes.append(f"skipped, as no rows: {', '.join(f'{reason} {count}' for reason, count in layout.skipped.items())}")
    if layout.numbered_rows:
        notes.append(
            f"the tokens of {layout.numbered_rows} sentences are the numbers 1, 2, 3 …: set tokens_column to that of the words"
        )
    changes = sum((Counter(record.image_changes) for record in records), Counter[str]())
    if changes:
        notes.append("images: " + "; ".join(f"{changes[name]} {text}" for name, text in CHANGES.items() if changes[name]))
    return notes


def _truncated(export: OpenedExport, records: Sequence[ShardRecord]) -> list[str]:
    """What `max_seq_len` cut off."""
    rows, count = (sum(getattr(record, name) for record in records) for name in ("truncated_rows", "truncated"))
    if not rows:
        return []
    limit, of = export.signature["text"]["max_seq_len"], sum(record.rows for record in records)
    if export.signature["rows_kind"] == "tokens":
        return [
            f"{rows} of {of} sentences are longer than max_seq_len {limit}: the model did not see {count} of their words, "
            f"which have no probability (see {NUM_TRUNCATED_WORDS}); set stride to read such sentences in windows that overlap"
        ]
    return [
        f"{rows} of {of} texts are longer than max_seq_len {limit}: the model did not see {count} of their tokens (see "
        f"{NUM_TRUNCATED_TOKENS})"
    ]


def in_threads(work: PredictionJob, parts: Sequence[ShardRef]) -> Iterator[ShardRecord]:
    """Parts predicted by threads of this process, a few at a time."""
    from hubflow.runtime.memory import kept_between_steps
    from hubflow.runtime.threads import thread_map

    with kept_between_steps(large=work.rows_kind == "image"):
        yield from thread_map(lambda part: predict_part(work, part), parts, AT_ONCE, ahead=AT_ONCE)


def load_ahead(work: PredictionJob) -> None:
    """Load the export by a thread while the rows are laid out; an error is raised where the export is first needed."""

    def load() -> None:
        with suppress(HubflowError):
            predictor_of(work)

    threading.Thread(target=load, name="hubflow-load").start()


def parts_folder(output: Path) -> Path:
    """Hidden folder beside the output for the parts."""
    return output.with_name(f".{output.name}.parts")


@contextmanager
def work_folder(output: Path, holds: Sequence[Path]) -> Iterator[None]:
    """Have the folder for the parts while the block runs; it goes when the block ends well, and stays for the next run else.

    Of two predictions into one output, the second waits for the first.

    Args:
        output: the predictions.
        holds: files and folders that are predicted on: who may not read each of them may not read what is made of them.

    Raises:
        StoreError: when it cannot be written, or is not this user's own.
    """
    folder = parts_folder(output)
    lock = folder.with_suffix(".lock")
    with _told(output):
        output.parent.mkdir(parents=True, exist_ok=True)
    with locked(lock):
        try:
            with _told(output):
                working_folder(folder, holds)
            try:
                with _told(output):
                    yield
                    shutil.rmtree(folder)
            finally:
                if folder.is_dir() and not any(folder.glob("*.json")):  # no part is done: there is nothing to go on with
                    shutil.rmtree(folder, ignore_errors=True)
        finally:
            lock.unlink(missing_ok=True)


@contextmanager
def _told(output: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise not_written(output, error) from error


def _records(work: PredictionJob, layout: Layout, mapped: Mapped) -> list[ShardRecord]:
    records: list[ShardRecord] = []
    done = len(list(Path(work.folder).glob("*.json")))
    if done:
        LOG.info("%d part(s) are there from a run that was stopped; of the same rows, they are not predicted again", done)
    with progress_bar("predicting", sum(part.rows for part in layout.parts)) as bar:
        try:
            for record in mapped(work, layout.parts):
                records.append(record)
                bar.advance(record.rows + record.bad)
        except HubflowError:
            raise
        except BaseException:
            LOG.warning("stopped after %d of %d parts; the same command goes on from there", len(records), len(layout.parts))
            raise
    return records


def _work(settings: PredictSettings, export: OpenedExport, folder: Path) -> PredictionJob:
    task, is_sequence = export.signature["task"], export.signature["rows_kind"] == "tokens"
    assert export.sealed is not None
    if settings.top_k is not None and is_sequence:
        raise SettingsError("top_k is for classification, this export's task is sequence_labelling; leave it out")
    if settings.stride is not None and not is_sequence:
        raise SettingsError(f"stride is for sequence_labelling, this export's task is {task}; leave it out")
    return PredictionJob(
        folder=str(folder),
        task=task,
        export=str(export.folder.absolute()),
        export_sha256=export.sealed.sha256,
        rows_kind=export.signature["rows_kind"],
        source=settings.data if isinstance(settings.data, str) else settings.data[0],
        batch_size=settings.batch_size,
        top_k=settings.top_k,
        stride=settings.stride,
        threads=None,
    )
