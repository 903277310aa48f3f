"""The folder of an evaluation: judged rows of each split as Parquet, and the details of all as JSON. Must not import Paddle."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from numpy.typing import NDArray

from hubflow.schemas.evaluation import DETAILS, SplitDetails
from hubflow.schemas.frames import PROBABILITY, require_judged
from hubflow.schemas.labels import LabelMap
from hubflow.schemas.references import RowKind
from hubflow.stages.data.carried import with_carried

if TYPE_CHECKING:
    from hubflow.stages.hub.judging import ClassJudge
    from hubflow.stages.hub.judging_sequences import SequenceJudge


def keep_judged(
    path: Path,
    data: Path,
    kind: RowKind,
    judge: "ClassJudge | SequenceJudge",
    positions: NDArray[np.int64],
    numbers: NDArray[np.int64],
    label_map: LabelMap,
) -> None:
    """Write the judged rows of a split (`JudgedRows`, or `JudgedTokens` of sentences) with the further columns of the data.

    Args:
        path: file to write, `<split>.parquet`.
        data: Parquet file of the split in the data set.
        kind: of its rows.
        judge: what was judged.
        positions: where each row of the judge is in `data`, from 0 `[rows]`.
        numbers: its row number in its source file `[rows]`.
        label_map: of the model.

    Raises:
        ContractError: when what was computed breaks its contract.
    """
    rows = judge.rows
    places = positions[rows]
    expected = pq.read_table(data, columns=["row"]).column("row").to_numpy()[places]
    frame = pd.DataFrame({"row": numbers[rows], "position": places, "loss": judge.losses[rows]})
    frame = _with_labels(frame, judge, rows, label_map)
    require_judged(frame, label_map, expected, f"evaluate, {path.stem}")
    pq.write_table(with_carried(frame, data, kind), path)


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


def write_details(folder: Path, details: dict[str, SplitDetails]) -> None:
    """Write the details of every split to `details.json`."""
    text = json.dumps({split: one.model_dump(mode="json") for split, one in details.items()}, ensure_ascii=False)
    (folder / DETAILS).write_text(text + "\n", encoding="utf-8", errors="backslashreplace")


def load_details(folder: Path) -> dict[str, SplitDetails]:
    """Read what `write_details` wrote."""
    found = json.loads((folder / DETAILS).read_text(encoding="utf-8"))
    return {split: SplitDetails.model_validate(one) for split, one in found.items()}
