"""Predict one part, wherever it is asked for: rows from disk, predictions to disk, named by content."""

import itertools
import json
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as arrow
from numpy.typing import NDArray
from pyarrow import parquet
from pydantic import ValidationError

from hubflow.data.columns import FILE
from hubflow.data.quarantine import as_quarantined
from hubflow.data.readers.chunks import Malformed
from hubflow.data.staging import as_table
from hubflow.errors import StoreError, TagError
from hubflow.files import read_text
from hubflow.inference.batch.layout import rows_file
from hubflow.inference.batch.tables import class_table, word_table
from hubflow.metrics import counts_for
from hubflow.runtime.memory import low_memory_explained
from hubflow.schemas.frames import BLANK
from hubflow.schemas.labels import LabelMap, clean_label
from hubflow.schemas.references import PredictionJob, ShardRecord, ShardRef
from hubflow.store.manifest import atomic_file, write_atomically
from hubflow.store.store import file_sha256

if TYPE_CHECKING:
    from hubflow.inference.predictor import Predictor

DECODES = "decodes"  # the check that an image fails when it cannot be decoded, as encode_dataset calls it
MAX_EXAMPLES = 5
_LOADING = threading.Lock()
_LOADED: dict[tuple[str, str, int | None], "Predictor"] = {}


@dataclass
class Evaluated:
    """What the labels of a part's rows say of its predictions; the fields are those of `ShardRecord`."""

    labelled: int = 0
    counts: dict[str, Any] = field(default_factory=dict)
    unknown: int = 0
    unknown_examples: tuple[str, ...] = ()


@low_memory_explained("prediction", "Give a smaller batch_size")
def predict_part(work: PredictionJob, part: ShardRef) -> ShardRecord:
    """Predict the rows of a part and keep the predictions (`Predictions`, or `TokenPredictions`) by their content.

    A part that is done already, and whose files are as they were written, is not predicted again.

    Raises:
        ContractError: when the predictions break their contract; StoreError when they cannot be written.
        OutOfMemoryError: when memory runs out.
    """
    folder = Path(work.folder)
    done = finished(folder, part)
    if done is not None:
        return done
    predictor = predictor_of(work)
    rows = parquet.read_table(rows_file(folder, part.number))
    bad_sha256, bad = None, 0
    image_changes: dict[str, int] = {}
    num_cut: NDArray[np.int64] | None
    if work.rows_kind == "tokens":
        table, evaluated, num_cut = _words(rows, predictor, work)
    else:
        rows, scores, undecoded, image_changes, num_cut = _classes(rows, predictor, work)
        source = f"predict, {work.source}"
        table = class_table(rows, scores, predictor.label_map, work.rows_kind, work.top_k, source, num_cut)
        evaluated = _evaluated_classes(rows, scores, predictor)
        if len(undecoded):
            bad, bad_sha256 = len(undecoded), _write_table(undecoded, bad_file(folder, part))
    sha256 = _write_table(table, predictions_file(folder, part))
    record = ShardRecord(
        rows=len(table),
        sha256=sha256,
        bad=bad,
        bad_sha256=bad_sha256,
        image_changes=image_changes,
        truncated_rows=0 if num_cut is None else int((num_cut > 0).sum()),
        truncated=0 if num_cut is None else int(num_cut.sum()),
        **vars(evaluated),
    )
    write_atomically(record_file(folder, part), record.model_dump_json().encode(), holds=[folder])
    return record


def predictions_file(folder: Path, part: ShardRef) -> Path:
    """Where the predictions of a part are."""
    return folder / f"{part.key}.parquet"


def bad_file(folder: Path, part: ShardRef) -> Path:
    """Where rows of a part are whose image does not decode."""
    return folder / f"{part.key}.bad.parquet"


def record_file(folder: Path, part: ShardRef) -> Path:
    """Where it is written that a part is done."""
    return folder / f"{part.key}.json"


def finished(folder: Path, part: ShardRef) -> ShardRecord | None:
    """What is known of a part that is done; None when it is not, or its files are gone or altered."""
    try:
        record = ShardRecord.model_validate(json.loads(read_text(record_file(folder, part))))
        wanted = {predictions_file(folder, part): record.sha256}
        if record.bad_sha256 is not None:
            wanted[bad_file(folder, part)] = record.bad_sha256
        return record if all(file_sha256(path) == sha256 for path, sha256 in wanted.items()) else None
    except (OSError, ValueError, ValidationError):
        return None


def predictor_of(work: PredictionJob) -> "Predictor":
    """The export's predictor, loaded and verified once in a process."""
    from hubflow.inference.predictor import Predictor

    name = (work.export, work.export_sha256, work.threads)
    with _LOADING:
        if name not in _LOADED:
            predictor = Predictor.load(work.export, work.threads)
            if predictor.manifest_sha256 != work.export_sha256:
                raise StoreError(f"{work.export}: another export than that of this prediction; predict again")
            _LOADED.clear()  # one at a time: each holds its weights
            _LOADED[name] = predictor
        return _LOADED[name]


def _words(rows: Any, predictor: "Predictor", work: PredictionJob) -> tuple[Any, Evaluated, NDArray[np.int64]]:
    """The predictions of sentences, what their labels say of them, and how many words of each were cut off."""
    words = predictor.word_scores(rows.column("tokens").to_pylist(), work.batch_size, work.stride)
    table = word_table(rows, words, predictor.label_map, f"predict, {work.source}")
    num_cut = np.array([one.num_cut for one in words], np.int64)
    if "labels" not in rows.column_names:
        return table, Evaluated(), num_cut
    numbers, labels = rows.column("row").to_pylist(), rows.column("labels").to_pylist()
    return table, evaluate_words(numbers, labels, [one.labels for one in words], predictor.label_map), num_cut


def evaluate_words(
    rows: Sequence[int], labels: Sequence[Sequence[str] | None], predicted: Sequence[NDArray[np.int64]], label_map: LabelMap
) -> Evaluated:
    """Counts of the entities of the sentences that have labels: how many of each type there are, were found, and are right.

    Args:
        rows: numbers `[rows]`.
        labels: of each sentence's words, as the data has them.
        predicted: class ids of each sentence's words.
        label_map: of the export.
    """
    index = label_map.index()
    given = [
        (row, [_as_known(label, index) for label in truth], guess)
        for row, truth, guess in zip(rows, labels, predicted, strict=True)
        if truth is not None
    ]
    strange = [(row, label) for row, truth, _ in given for label in truth if label not in index]
    known = [(truth, guess) for _, truth, guess in given if all(label in index for label in truth)]
    try:
        counts = counts_for(label_map, is_sequence=True)
    except TagError:  # the predictions are sound all the same; `evaluated` says why there are no metrics
        return Evaluated(len(given), {}, len(strange), _named(strange))
    truth_ids = [np.array([index[label] for label in truth], np.int64) for truth, _ in known]
    counts.update(truth_ids, [guess for _, guess in known])
    return Evaluated(len(given), counts.state(), len(strange), _named(strange))


def evaluate_classes(
    rows: Sequence[int], labels: Sequence[str | None], predicted: NDArray[Any], label_map: LabelMap
) -> Evaluated:
    """Counts of the rows that have a label: by class, how many are of it, are predicted as it, and are both.

    Args:
        rows: numbers `[rows]`.
        labels: as the data has them.
        predicted: class ids `[rows]`.
        label_map: of the export.
    """
    index = label_map.index()
    labels = [_as_known(label, index) for label in labels]
    known = [(position, index[label]) for position, label in enumerate(labels) if label is not None and label in index]
    strange = [(rows[position], label) for position, label in enumerate(labels) if has_label(label) and label not in index]
    places, truth = np.array(known, np.int64).reshape(-1, 2).T
    counts = counts_for(label_map, is_sequence=False)
    counts.update(truth, predicted[places])
    return Evaluated(len(known) + len(strange), counts.state(), len(strange), _named(strange))


def has_label(label: str | None) -> bool:
    """Whether a row has a label: more than white space and characters that show nothing."""
    return label is not None and bool(label.strip(BLANK))


def _as_known(label: Any, index: Mapping[str, int]) -> Any:
    """A label as `load_dataset` has it, unless the label map has it as it is written."""
    return label if label in index or not isinstance(label, str) else clean_label(label)


def _named(strange: Sequence[tuple[int, Any]]) -> tuple[str, ...]:
    return tuple(f"row {row} ({label!r})" for row, label in strange[:MAX_EXAMPLES])


def _evaluated_classes(rows: Any, scores: NDArray[np.float32], predictor: "Predictor") -> Evaluated:
    if "label" not in rows.column_names or not len(rows):
        return Evaluated()
    numbers = rows.column("row").to_pylist()
    return evaluate_classes(numbers, rows.column("label").to_pylist(), scores.argmax(1), predictor.label_map)


def _classes(
    rows: Any, predictor: "Predictor", work: PredictionJob
) -> tuple[Any, NDArray[np.float32], Any, dict[str, int], NDArray[np.int64] | None]:
    """The rows that could be predicted, their probabilities, the others for the quarantine, changes made to images, and how
    many tokens of each text were cut off."""
    if work.rows_kind == "image":
        return *_images(rows, predictor, work), None
    texts: list[Any] = rows.column("text").to_pylist()
    if work.rows_kind == "text_pair":
        texts = list(zip(texts, rows.column("text_pair").to_pylist(), strict=True))
    scores, num_cut = predictor.text_scores(texts, work.batch_size)
    return rows, scores, rows.slice(0, 0), {}, num_cut


def _images(rows: Any, predictor: "Predictor", work: PredictionJob) -> tuple[Any, NDArray[np.float32], Any, dict[str, int]]:
    """What `_classes` gives of images, which threads decode while those before them are predicted on.

    A few batches of pixels are in memory.
    """
    from hubflow.errors import ImageError
    from hubflow.modules.images import CHANGES, seen_image, square_pixels
    from hubflow.runtime.threads import thread_map, usable_cores

    size = predictor.signature["image"]["image_size"]
    paths = rows.column("path").to_pylist()
    sources = rows.column("image").to_pylist() if "image" in rows.column_names else paths

    def decode(position: int) -> tuple[int, Any]:
        try:
            with seen_image(sources[position], size, paths[position], predictor.image_rules) as seen:
                return position, (square_pixels(seen.colours, size), seen.changes)
        except ImageError as error:
            return position, error

    is_good = np.ones(len(rows), bool)
    changes: Counter[str] = Counter()

    def decoded() -> Iterator[NDArray[np.uint8]]:
        for position, found in thread_map(decode, range(len(paths)), usable_cores(), ahead=2 * work.batch_size):
            if isinstance(found, ImageError):
                is_good[position] = False
            else:
                changes.update(found[1])
                yield found[0]

    images, parts = decoded(), [np.zeros((0, predictor.label_map.num_classes), np.float32)]
    while batch := list(itertools.islice(images, work.batch_size)):
        parts.append(predictor.pixel_scores(np.stack(batch)))
    good, bad = rows.filter(arrow.array(is_good)), rows.filter(arrow.array(~is_good))
    return good, np.concatenate(parts), _undecoded(bad), {name: changes[name] for name in CHANGES if changes[name]}


def _undecoded(rows: Any) -> Any:
    """Rows whose image does not decode, as the quarantine has them."""
    if not len(rows):
        return rows
    frame = rows.drop_columns([name for name in ("image",) if name in rows.column_names]).to_pandas()
    frame["checks"] = [[f"image: {DECODES}"]] * len(frame)
    kept = as_quarantined(frame, Malformed().frame())
    if FILE in kept:
        kept.insert(0, FILE, kept.pop(FILE))
    return as_table(kept, "rows quarantined")


def _write_table(table: Any, path: Path) -> str:
    """Write a table as a whole; the hash of its file."""
    with atomic_file(path, holds=[path.parent]) as stream:
        parquet.write_table(table, stream)
    return file_sha256(path)
