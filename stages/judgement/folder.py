"""The folder of an evaluation: judged rows of each split as Parquet, and the details of all as JSON. Must not import Paddle."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from numpy.typing import NDArray

from hubflow.schemas.evaluate_settings import EvaluateSettings
from hubflow.schemas.evaluation import DETAILS, SplitDetails
from hubflow.schemas.folders import StoreError
from hubflow.schemas.frames import PROBABILITY, require_judged
from hubflow.schemas.labels import LabelMap
from hubflow.stages.data.carried import with_carried
from hubflow.stages.data.columns import to_frame
from hubflow.stages.judgement.details import split_details
from hubflow.stages.judgement.judged import JudgedSplit
from hubflow.stages.judgement.own_metrics import OwnMetric, measured_by

if TYPE_CHECKING:
    from hubflow.stages.hub.judging import ClassJudge
    from hubflow.stages.hub.judging_sequences import SequenceJudge


def keep_judged(path: Path, judged: JudgedSplit) -> None:
    """Write the judged rows of a split (`JudgedRows`, or `JudgedTokens` of sentences) with the further columns of the data.

    Raises:
        ContractError: when what was computed breaks its contract.
    """
    expected = pq.read_table(judged.data, columns=["row"]).column("row").to_numpy()[judged.positions]
    columns = {"row": judged.numbers[judged.rows], "position": judged.positions, "loss": judged.judge.losses[judged.rows]}
    frame = _with_labels(pd.DataFrame(columns), judged.judge, judged.rows, judged.label_map)
    require_judged(frame, judged.label_map, expected, f"evaluate, {judged.name}")
    pq.write_table(with_carried(frame, judged.data, judged.kind), path)


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
        StoreError: when there is no such file.
    """
    try:
        found = json.loads((folder / DETAILS).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise StoreError(f"{folder} has no {DETAILS}: it was made by an earlier version of hubflow; evaluate again") from error
    return {split: SplitDetails.model_validate(one) for split, one in found.items()}
