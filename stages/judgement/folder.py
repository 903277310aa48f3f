"""The folder of an evaluation: judged rows of each split as Parquet, and the details of all as JSON. Must not import Paddle."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import ValidationError

from hubflow.schemas.evaluate_settings import EvaluateSettings
from hubflow.schemas.evaluation import DETAILS, SplitDetails
from hubflow.schemas.files import read_text
from hubflow.schemas.folders import StoreError
from hubflow.schemas.frames import PROBABILITY, require_judged
from hubflow.schemas.labels import LabelMap
from hubflow.schemas.references import RowKind
from hubflow.stages.data.carried import with_carried
from hubflow.stages.data.columns import to_frame
from hubflow.stages.judgement.details import judge_options, split_details
from hubflow.stages.judgement.judged import JudgedSplit
from hubflow.stages.judgement.own_metrics import OwnMetric, measured_by

if TYPE_CHECKING:
    import pyarrow as pa

    from hubflow.stages.hub.judging import ClassJudge
    from hubflow.stages.hub.judging_sequences import SequenceJudge

TRIED_ROWS = 1000
"""So many rows at most are tried with a user's own metrics before training."""


def keep_judged(path: Path, judged: JudgedSplit) -> None:
    """Write the judged rows of a split (`JudgedRows`, or `JudgedTokens` of sentences) with the further columns of the data.

    Raises:
        ContractError: when what was computed breaks its contract.
    """
    pq.write_table(_judged_table(judged), path)


def try_own_metrics(
    own: Mapping[str, OwnMetric], data: Path, kind: RowKind, label_map: LabelMap, settings: EvaluateSettings
) -> None:
    """Run a user's own metrics on rows of a split with made-up predictions, so that their faults are found before training.

    Args:
        own: the metrics.
        data: Parquet file of the split in the data set.
        kind: of its rows.
        label_map: of the data set.
        settings: of the evaluation to come.

    Raises:
        MetricError: when one of them fails.
    """
    if own:
        table = _judged_table(_with_made_up_predictions(data, kind, label_map, settings))
        measured_by(own, to_frame(table), label_map.labels, data.stem, is_trial=True)


def _with_made_up_predictions(data: Path, kind: RowKind, label_map: LabelMap, settings: EvaluateSettings) -> JudgedSplit:
    """Rows from all over a split, judged by predictions that are right or wrong by chance."""
    from hubflow.stages.hub.judging import ClassJudge
    from hubflow.stages.hub.judging_sequences import SequenceJudge
    from hubflow.stages.hub.metrics import log_softmax

    table = pq.read_table(data, columns=["row", "labels" if kind == "tokens" else "label"])
    places = np.unique(np.linspace(0, len(table) - 1, min(TRIED_ROWS, len(table))).round().astype(np.int64))
    rows, labels = (column.to_pylist() for column in table.take(places).columns)
    index, generator = label_map.index(), np.random.default_rng(0)

    def scores(count: int) -> NDArray[np.float64]:
        return log_softmax(generator.standard_normal((count, label_map.num_classes)).astype(np.float32))

    options, judged_rows = judge_options(settings), np.arange(len(rows))
    if kind == "tokens":
        ids = [np.array([index[label] for label in tags], np.int64) for tags in labels]
        sequences = SequenceJudge(ids, label_map, options)
        sequences.add(judged_rows, [np.ones(len(tags), bool) for tags in ids], scores(sum(map(len, ids))))
        return JudgedSplit(sequences, label_map, data, kind, places, np.array(rows, np.int64))
    classes = ClassJudge(len(rows), label_map.num_classes, options)
    classes.add(judged_rows, np.array([index[label] for label in labels], np.int64), scores(len(rows)))
    return JudgedSplit(classes, label_map, data, kind, places, np.array(rows, np.int64))


def _judged_table(judged: JudgedSplit) -> "pa.Table":
    """The judged rows of a split with the further columns of the data."""
    expected = pq.read_table(judged.data, columns=["row"]).column("row").to_numpy()[judged.positions]
    columns = {"row": judged.numbers[judged.rows], "position": judged.positions, "loss": judged.judge.losses[judged.rows]}
    frame = _with_labels(pd.DataFrame(columns), judged.judge, judged.rows, judged.label_map)
    require_judged(frame, judged.label_map, expected, f"evaluate, {judged.name}")
    return with_carried(frame, judged.data, judged.kind)


def _with_labels(
    frame: pd.DataFrame, judge: "ClassJudge | SequenceJudge", rows: NDArray[np.int64], label_map: LabelMap
) -> pd.DataFrame:
    from hubflow.stages.hub.judging import ClassJudge

    names = np.array(label_map.labels, object)
    if not isinstance(judge, ClassJudge):
        frame["label"] = [names[judge.labels[row]].tolist() for row in rows]
        frame["predicted"] = [names[judge.predicted[row]].tolist() for row in rows]
        return frame
    frame["label"], frame["predicted"] = names[judge.labels[rows]], names[judge.predicted[rows]]
    frame["probability"] = judge.confidence[rows].astype(np.float64)
    if judge.scores is None:
        return frame
    columns = [f"{PROBABILITY}{label}" for label in label_map.labels]
    return pd.concat([frame, pd.DataFrame(np.exp(judge.scores[rows]), columns=columns)], axis=1)


def keep_split(
    folder: Path, judged: JudgedSplit, settings: EvaluateSettings, own: Mapping[str, OwnMetric]
) -> tuple[SplitDetails, dict[str, float]]:
    """Write the judged rows of a split to `<split>.parquet`; its details, and what a user's own metrics give of it.

    Raises:
        ContractError: when what was computed breaks its contract.
        MetricError: when a user's own metric fails.
    """
    path = folder / f"{judged.name}.parquet"
    keep_judged(path, judged)
    given: dict[str, float] = {}
    if own:
        given = measured_by(own, to_frame(pq.read_table(path)), judged.label_map.labels, judged.name)
    return split_details(judged, settings), given


def write_details(folder: Path, details: dict[str, SplitDetails]) -> None:
    """Write the details of every split to `details.json`."""
    text = json.dumps({split: one.model_dump(mode="json") for split, one in details.items()}, ensure_ascii=False)
    (folder / DETAILS).write_text(text + "\n", encoding="utf-8", errors="backslashreplace")


def load_details(folder: Path) -> dict[str, SplitDetails]:
    """Read what `write_details` wrote.

    Raises:
        StoreError: when there is no such file, or it is something else.
    """
    try:
        found = json.loads(read_text(folder / DETAILS))
    except FileNotFoundError as error:
        raise StoreError(f"{folder} has no {DETAILS}: it was made by an earlier version of hubflow; evaluate again") from error
    except (OSError, ValueError, RecursionError) as error:
        raise StoreError(f"{folder / DETAILS}: no readable details ({error}); evaluate again") from error
    try:
        return {split: SplitDetails.model_validate(one) for split, one in found.items()}
    except (ValidationError, AttributeError) as error:
        raise StoreError(f"{folder / DETAILS}: not the details of an evaluation ({error}); evaluate again") from error
