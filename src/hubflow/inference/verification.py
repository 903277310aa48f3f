"""Verification of an export: loaded in another process, the program gives what the trained one gives, or is not kept."""

import json
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import ValidationError

from hubflow.errors import ExportError, StoreError
from hubflow.files import read_file, read_text
from hubflow.metrics import MetricOptions
from hubflow.programs.session import open_split
from hubflow.schemas.export import (
    LATENCY_BATCHES,
    VERIFICATION,
    ExportSettings,
    OnnxTrial,
    Probe,
    Trial,
    Verification,
    VerificationRequest,
    VerifiedMetric,
    VerifiedProbe,
)
from hubflow.schemas.labels import LabelMap
from hubflow.schemas.references import EncodedRef, EvaluationRef, Split
from hubflow.schemas.training import Precision
from hubflow.store.store import Store

if TYPE_CHECKING:
    from hubflow.data.encoded import EncodedSplit
    from hubflow.programs.session import Session

TOLERANCE = {"float32": 1e-4, "bfloat16": 5e-2}
"""Of probabilities: the order of sums differs with threads and kernels, and bfloat16 has 8 bits."""
METRIC_TOLERANCE = {"float32": 1e-3, "bfloat16": 1e-2}
PROBE_ROWS = 7
BATCH_SIZE = 64
_MAX_PROOF_BYTES = 2**20
MOST_TRAINING_ROWS = 1000
"""Where there are neither test nor dev rows to take the metric over."""
_is_verified: ContextVar[bool] = ContextVar("_is_verified", default=True)


@contextmanager
def without_verification() -> Iterator[None]:
    """For tests: exports made in this block are not tried by a fresh process, and have no `verification.json`.

    The gate's rules about latency and size are inconclusive for them. Each export logs that it was not verified.
    """
    token = _is_verified.set(False)
    try:
        yield
    finally:
        _is_verified.reset(token)


def is_verified() -> bool:
    """Whether exports that are made now are tried by a fresh process."""
    return _is_verified.get()


@dataclass(frozen=True)
class Trained:
    """What the exported program is held to.

    Attributes:
        session: with the trained weights.
        split: name of the split that `rows` are of, `file` its Arrow file.
        predicted: class ids that the trained program gave the first rows `[rows]`, or every word of theirs.
        truth: true ids, as many.
        words: how many words each of these rows has, for sequences.
        metric: the one that training kept the best weights by.
    """

    session: "Session"
    label_map: LabelMap
    split: Split
    file: Path
    rows: "EncodedSplit"
    predicted: NDArray[np.int64]
    truth: NDArray[np.int64]
    words: NDArray[np.int64] | None
    metric: str


def what_was_trained(
    session: "Session", store: Store, encoded: EncodedRef, evaluation: EvaluationRef, label_map: LabelMap
) -> Trained:
    """The rows to verify the export on, of test, or dev, or train, and what the trained program predicts of them.

    Of a split that was evaluated these are the evaluation's predictions.
    """
    counts = encoded.dataset.rows
    names: tuple[Split, ...] = ("test", "dev", "train")
    split = next(name for name in names if counts.get(name))
    rows, file = open_split(store, encoded, split), store.open(encoded).folder / f"{split}.arrow"
    is_windowed = store.open(evaluation).facts["settings"].get("stride") is not None  # the export's program reads no windows
    if split in evaluation.metrics and not is_windowed:
        evaluated = pq.read_table(store.open(evaluation).folder / f"{split}.parquet", columns=["label", "predicted"])
        lists = {name: evaluated.column(name).to_pylist() for name in evaluated.column_names}
        index = label_map.index()
        truth, predicted = (_ids(lists[name], index) for name in ("label", "predicted"))
        words = np.array([len(tags) for tags in lists["label"]]) if encoded.dataset.rows_kind == "tokens" else None
    else:
        truth, predicted, words = _of_training(session, rows)
    predicted = _all_labelled(predicted, label_map)
    return Trained(session, label_map, split, file, rows, predicted, truth, words, evaluation.checkpoint.best_metric)


def verify_export(
    verify: Callable[[VerificationRequest], None], trained: Trained, folder: Path, settings: ExportSettings
) -> Verification:
    """Have the export in `folder` tried by another process, and hold it to what was trained.

    Args:
        verify: has a request answered in the folder that it names, by a process that has not seen the trained program.
        trained: what it is held to.
        folder: the export.
        settings: what is tried.

    Raises:
        ExportError: when probabilities or metric are further apart than the tolerances allow, or the program cannot be run.
    """
    from hubflow.inference.verification_worker import ANSWER, ONNX, PADDLE

    started = time.perf_counter()
    probes = probes_of(trained.rows.lengths, trained.session.spec.max_seq_len)
    with tempfile.TemporaryDirectory() as answer:
        verify(_request(trained, folder, probes, settings, answer))
        found = json.loads(read_text(Path(answer, ANSWER)))
        paddle = _trial(
            trained, probes, Path(answer, PADDLE), folder, ("program.json", "program.pdiparams"), settings.precision
        )
        onnx = (
            _trial(trained, probes, Path(answer, ONNX), folder, ("program.onnx",), settings.precision)
            if settings.onnx
            else None
        )
    verification = Verification(
        **paddle,
        **found.pop(PADDLE),
        onnx=onnx and OnnxTrial(**onnx, **found.pop(ONNX)),
        precision=settings.precision,
        split=trained.split,
        rows=_evaluated(trained),
        seconds=round(time.perf_counter() - started, 3),
        **found,
    )
    faults = faults_of(verification) + [
        f"program.onnx: {fault}" for fault in (faults_of(verification.onnx) if verification.onnx else [])
    ]
    if faults:
        raise ExportError(
            f"the exported program is not the trained one, and is not kept: {'; '.join(faults)}. "
            "Train and export with the same versions of hubflow and Paddle; if they are, this is a fault of theirs"
        )
    return verification


def _trial(
    trained: Trained, probes: tuple[Probe, ...], answer: Path, folder: Path, files: tuple[str, ...], precision: Precision
) -> dict[str, Any]:
    with np.load(answer.with_suffix(".npz")) as arrays:
        verified = _compared(trained, probes, [arrays[name] for name in arrays.files])
    return {
        "probes": verified,
        "max_abs_difference": max(probe.max_abs_difference for probe in verified),
        "tolerance": TOLERANCE[precision],
        "metric": _metric(trained, np.load(answer.with_suffix(".npy")), precision),
        "size_bytes": sum((folder / name).stat().st_size for name in files),
    }


def faults_of(verification: Trial) -> list[str]:
    """What keeps an export from being kept. One label may differ, whatever that makes of the metric: a tie."""
    faults = [
        f"probabilities of a batch of {probe.rows} row(s) are up to {probe.max_abs_difference:.3g} apart, "
        f"tolerance {verification.tolerance:g}"
        for probe in verification.probes
        if not probe.max_abs_difference <= verification.tolerance
    ]
    metric = verification.metric
    if metric.differing_labels > 1 and not abs(metric.trained - metric.exported) <= metric.tolerance:
        faults.append(
            f"{metric.name} is {metric.exported:.4f}, that of the trained program {metric.trained:.4f}, "
            f"tolerance {metric.tolerance:g}; {metric.differing_labels} labels differ"
        )
    return faults


def probes_of(lengths: NDArray[np.int64], max_seq_len: int | None) -> tuple[Probe, ...]:
    """Batches to try: the longest row and the shortest alone, seven from all lengths, and one of an odd number of tokens."""
    order = np.argsort(lengths, kind="stable")
    spread = order[np.linspace(0, len(order) - 1, min(PROBE_ROWS, len(order))).round().astype(int)]
    probes = [Probe(rows=(int(order[-1]),)), Probe(rows=(int(order[0]),)), Probe(rows=tuple(spread.tolist()))]
    if max_seq_len is None:
        return tuple(probes)
    odd = order[lengths[order] % 2 == 1]
    if len(odd):
        return (*probes, Probe(rows=(int(odd[-1]),)))
    if lengths[order[0]] < max_seq_len:
        return (*probes, Probe(rows=(int(order[0]),), longer_padding=True))
    return tuple(probes)


def _request(
    trained: Trained, folder: Path, probes: tuple[Probe, ...], settings: ExportSettings, answer: str
) -> VerificationRequest:
    order = np.argsort(trained.rows.lengths, kind="stable")
    timed = {size: tuple(order[((np.arange(size) + 0.5) * len(order) / size).astype(int)].tolist()) for size in LATENCY_BATCHES}
    return VerificationRequest(
        export=str(folder),
        rows=str(trained.file),
        probes=probes,
        evaluated=_evaluated(trained),
        timed=timed,
        rounds=settings.latency_rounds,
        batch_size=BATCH_SIZE,
        onnx=settings.onnx,
        answer=answer,
    )


def _evaluated(trained: Trained) -> int:
    return len(trained.predicted if trained.words is None else trained.words)


def _compared(trained: Trained, probes: tuple[Probe, ...], found: list[NDArray[np.float32]]) -> tuple[VerifiedProbe, ...]:
    from hubflow.inference.verification_worker import length_of, probe_feeds

    task, session = trained.session.task, trained.session
    verified = []
    for feed, probe, exported in zip(probe_feeds(trained.rows, probes), probes, found, strict=True):
        expected = session.run(task.test_program(), feed, [task.test_variable("probs")])[0]
        if expected.ndim > 2:  # noqa: PLR2004 - of padding nothing is said
            is_token = feed["input_mask"] > 0
            expected, exported = expected[is_token], exported[is_token]  # noqa: PLW2901
        difference = float(np.abs(expected - exported).max())
        verified.append(VerifiedProbe(rows=len(probe.rows), length=length_of(feed), max_abs_difference=difference))
    return tuple(verified)


def _metric(trained: Trained, predicted: NDArray[np.int64], precision: Precision) -> VerifiedMetric:
    exported = _all_labelled(predicted, trained.label_map)
    by_trained, by_exported = _metrics(trained, trained.predicted), _metrics(trained, exported)
    name = trained.metric if trained.metric in by_trained else "accuracy"
    return VerifiedMetric(
        name=name,
        trained=by_trained[name],
        exported=by_exported[name],
        tolerance=METRIC_TOLERANCE[precision],
        differing_labels=int((trained.predicted != exported).sum()),
    )


def _all_labelled(predicted: NDArray[np.int64], label_map: LabelMap) -> NDArray[np.int64]:
    """With what a word counts as that truncation left out: `O`, or the first label when there is none."""
    return np.where(predicted < 0, label_map.index().get("O", 0), predicted)


def _metrics(trained: Trained, predicted: NDArray[np.int64]) -> dict[str, float]:
    """Metrics of the first rows by what was predicted of them, class ids `[rows]`, or of every word of theirs."""
    truth, guess = (_by_row(trained, ids) for ids in (trained.truth, predicted))
    metrics = trained.session.task_type.streaming_metrics(truth, trained.label_map, MetricOptions())
    metrics.update_predicted(np.arange(len(truth)), guess)
    found: dict[str, float] = metrics.compute()
    return found


def _by_row(trained: Trained, ids: NDArray[np.int64]) -> Any:
    """Ids of all words as a list by row; of classes as they are."""
    return ids if trained.words is None else np.split(ids, np.cumsum(trained.words)[:-1])


def _ids(values: Iterable[Any], index: dict[str, int]) -> NDArray[np.int64]:
    return np.array([index[label] for value in values for label in ([value] if isinstance(value, str) else value)], np.int64)


def _of_training(session: "Session", rows: "EncodedSplit") -> tuple[NDArray[np.int64], NDArray[np.int64], Any]:
    """Truth, what the test program predicts, and words by row, of the first training rows."""
    from hubflow.data.encoded import TextSplit
    from hubflow.inference.verification_worker import predicted_ids
    from hubflow.training.evaluation import truth_of

    count, task = min(len(rows), MOST_TRAINING_ROWS), session.task
    probs = [task.test_variable("probs")]
    predicted = predicted_ids(lambda feed: session.run(task.test_program(), feed, probs)[0], rows, count, BATCH_SIZE)
    if not isinstance(rows, TextSplit) or rows.word_labels is None:
        return np.asarray(truth_of(rows))[:count], predicted, None
    labels = [np.asarray(rows.word_labels[row]) for row in range(count)]
    words = np.array([len(row) for row in labels])
    return np.concatenate(labels), predicted, words


def read_verification(folder: Path) -> Verification | None:
    """The verification of an exported folder; None of one that was exported before there were verifications.

    Raises:
        StoreError: when it is no verification.
    """
    path = folder / VERIFICATION
    try:
        return Verification.model_validate_json(read_file(path, _MAX_PROOF_BYTES, follow_links=False))
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise StoreError(f"{path}: no readable verification ({error}); make the export again") from error
