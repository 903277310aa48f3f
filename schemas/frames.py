"""Contracts of the tables that stages hand on: splits, history, predictions, metrics."""

from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd
import pandera.pandas as pa
import pyarrow as arrow
from numpy.typing import NDArray
from pandera.typing import Series
from pyarrow import compute

from hubflow.errors import ContractError, join_limited
from hubflow.schemas.labels import INVISIBLE, WHITE_SPACE, LabelMap
from hubflow.schemas.references import Split
from hubflow.schemas.tasks import MetricRange, metric_range

BLANK = WHITE_SPACE + INVISIBLE
SEQUENCES = (list, tuple, np.ndarray)


def has_text(values: "pd.Series[str]") -> "pd.Series[bool]":
    """Whether each value holds something besides white space and characters that show nothing."""
    return values.str.strip(BLANK) != ""


def is_sha256(values: "pd.Series[str]") -> "pd.Series[bool]":
    """Whether each value is 64 lower-case hexadecimal digits."""
    return values.str.fullmatch("[0-9a-f]{64}")


def are_string_lists(values: "pd.Series[Any]") -> "pd.Series[bool]":
    """Whether each value is a list of one or more strings, none of them empty."""
    if _all_string_lists(values):
        return pd.Series(True, index=values.index)
    return values.map(_is_string_list).astype(bool)


def equal_lengths(left: "pd.Series[Any]", right: "pd.Series[Any]") -> "pd.Series[bool]":
    """Whether the lists of each row have the same length; what is no list is left to `are_string_lists`."""
    lengths, others = left.map(_length), right.map(_length)
    return (lengths == others) | (lengths < 0) | (others < 0)


def known_labels(labels: Iterable[str]) -> Callable[["pd.Series[Any]"], "pd.Series[bool]"]:
    """Check that each value, or each item of each list, is one of `labels`; missing values are left to other checks."""
    known = frozenset(labels)

    def check(values: "pd.Series[Any]") -> "pd.Series[bool]":
        if not len(values) or not isinstance(values.iloc[0], SEQUENCES):
            return values.isin(list(known)) | values.isna()
        lists = values[values.map(_length) >= 0]
        if known.issuperset(_hashable(chain.from_iterable(lists))):
            return pd.Series(True, index=values.index)
        return values.map(lambda items: first_unknown(items, known) is None).astype(bool)

    return check


def first_unknown(items: object, known: frozenset[str]) -> tuple[int, object] | None:
    """Position and value of the first string of `items` that is not in `known`."""
    if not isinstance(items, SEQUENCES):
        return None
    return next(((position, item) for position, item in enumerate(items) if isinstance(item, str) and item not in known), None)


def _hashable(items: Iterable[object]) -> set[object]:
    return {item for item in items if isinstance(item, str)}


def _all_string_lists(values: "pd.Series[Any]") -> bool:
    if not set(map(type, values)).issubset(SEQUENCES):
        return False  # Arrow takes a str for a list of its characters
    if not set(map(type, chain.from_iterable(values))).issubset((str,)):
        return False  # and bytes for the text that they may be
    try:
        lists = arrow.array(values, type=arrow.large_list(arrow.large_string()))
    except (arrow.ArrowInvalid, arrow.ArrowTypeError, arrow.ArrowNotImplementedError, UnicodeEncodeError):
        return False
    items = lists.flatten()
    shortest = compute.min(compute.list_value_length(lists)).as_py() or 0
    shortest_item = compute.min(compute.utf8_length(items)).as_py() or 0
    return bool(lists.null_count == 0 and items.null_count == 0 and shortest > 0 and shortest_item > 0)


def _is_string_list(value: object) -> bool:
    return isinstance(value, SEQUENCES) and len(value) > 0 and all(isinstance(item, str) and item != "" for item in value)


def _length(value: object) -> int:
    return len(value) if isinstance(value, SEQUENCES) else -1


PROBABILITY = "probability_"
"""Before a label: the column that holds its probability."""
TOP_LABELS, TOP_PROBABILITIES = "top_labels", "top_probabilities"
"""Columns of lists: the most probable labels, and their probabilities."""
SUM_TOLERANCE = 1e-4
RATE_TOLERANCE = 1e-9
MAX_CASES = 5
_SPLITS = ["train", "dev", "test"]
_PLACE = ["step", "epoch"]
Rates = Callable[[NDArray[np.int64]], NDArray[np.float64]]


class SplitSummary(pa.DataFrameModel):
    """One line for each label of each split: `count` rows, or tokens, have it, which is `share` of the split's."""

    split: Series[str] = pa.Field(isin=_SPLITS, description="train, dev or test")
    rows: Series[np.int64] = pa.Field(ge=1, description="Number of rows of the split")
    label: Series[str] = pa.Field(description="A label of the label map")
    count: Series[np.int64] = pa.Field(ge=0, description="Number of rows, or tokens, of the split that have the label")
    share: Series[float] = pa.Field(
        in_range={"min_value": 0.0, "max_value": 1.0},
        description="Fraction of the split's rows, or tokens, that have the label",
    )

    class Config:
        unique = ("split", "label")
        strict = True

    @pa.dataframe_check(name="shares of a split sum to one")
    def _sums(cls, frame: Any) -> Any:
        return (frame.groupby("split")["share"].transform("sum") - 1).abs() <= SUM_TOLERANCE


class TrainingSteps(pa.DataFrameModel):
    """The logged steps of a run: step and epoch rise, loss and gradient are finite, the rate is what the schedule says."""

    step: Series[np.int64] = pa.Field(ge=1, description="Number of updates that were made, from 1")
    epoch: Series[np.int64] = pa.Field(ge=1, description="Epoch, from 1")
    loss: Series[float] = pa.Field(description="Mean loss of the update's rows (tokens)")
    learning_rate: Series[float] = pa.Field(ge=0, description="Learning rate of the update, as the schedule gives it")
    grad_norm: Series[float] = pa.Field(ge=0, description="Global L2 norm of the gradients, before clipping")

    class Config:
        strict = True

    @pa.check("step", name="rising")
    def _steps(cls, values: Any) -> Any:
        return rising(values)

    @pa.check("epoch", name="not falling")
    def _epochs(cls, values: Any) -> Any:
        return ~(values.diff() < 0)

    @pa.check("loss", "learning_rate", "grad_norm", name="finite")
    def _finite(cls, values: Any) -> Any:
        return np.isfinite(values)


class Evaluations(pa.DataFrameModel):
    """The evaluations of a run: step and epoch rise, and every other column is a metric of the task, finite."""

    step: Series[np.int64] = pa.Field(ge=1, description="Number of updates that were made before the evaluation")
    epoch: Series[np.int64] = pa.Field(ge=1, description="Epoch, from 1")

    class Config:
        strict = False  # the metrics differ by task: they are checked together

    @pa.check("step", name="rising")
    def _steps(cls, values: Any) -> Any:
        return rising(values)

    @pa.check("epoch", name="not falling")
    def _epochs(cls, values: Any) -> Any:
        return ~(values.diff() < 0)

    @pa.dataframe_check(name="metrics finite")
    def _finite(cls, frame: Any) -> Any:
        values = frame.drop(columns=_PLACE)
        if not all(map(pd.api.types.is_numeric_dtype, values.dtypes)):
            return False
        return pd.Series(np.isfinite(values.to_numpy(float)).all(axis=1), index=frame.index)


class Metrics(pa.DataFrameModel):
    """One line for each metric of each split: a metric of the task, and a finite value within its range.

    Losses are from 0, `mcc` is within -1..1, a user's own metric anywhere, and all others within 0..1.
    """

    split: Series[str] = pa.Field(isin=_SPLITS, description="train, dev or test")
    metric: Series[str] = pa.Field(description="Name of the metric")
    value: Series[float] = pa.Field(description="Value of the metric")

    class Config:
        unique = ("split", "metric")
        strict = True

    @pa.check("value", name="finite")
    def _finite(cls, values: Any) -> Any:
        return np.isfinite(values)


class EvaluatedRows(pa.DataFrameModel):
    """What evaluate keeps of each row of a split, in its order; further columns of the data are kept as extra columns."""

    row: Series[np.int64] = pa.Field(ge=1, description="Number of the row in its source file, from 1")
    position: Series[np.int64] = pa.Field(ge=0, description="Position of the row in the data set's file, from 0")
    loss: Series[float] = pa.Field(ge=0, description="Cross-entropy loss of the row, in nats")
    label: Series[str] = pa.Field(description="True label")
    predicted: Series[str] = pa.Field(description="Label that was predicted")
    probability: Series[float] | None = pa.Field(
        in_range={"min_value": 0.0, "max_value": 1.0}, description="Probability of `predicted`"
    )

    class Config:
        strict = False

    @pa.check("loss", name="finite")
    def _finite(cls, values: Any) -> Any:
        return np.isfinite(values)


class EvaluatedTokens(pa.DataFrameModel):
    """EvaluatedRows of sentences: `label` and `predicted` are lists of one length, a label for each token."""

    row: Series[np.int64] = pa.Field(ge=1, description="Number of the row in its source file, from 1")
    position: Series[np.int64] = pa.Field(ge=0, description="Position of the row in the data set's file, from 0")
    loss: Series[float] = pa.Field(ge=0, description="Mean cross-entropy loss of the sentence's words, in nats")
    label: Series[object] = pa.Field(description="True label of each token")
    predicted: Series[object] = pa.Field(description="Label that was predicted for each token")

    class Config:
        strict = False

    @pa.check("loss", name="finite")
    def _finite(cls, values: Any) -> Any:
        return np.isfinite(values)

    @pa.dataframe_check(name="as many predictions as labels")
    def _lengths(cls, frame: Any) -> Any:
        return equal_lengths(frame["label"], frame["predicted"])


class Predictions(pa.DataFrameModel):
    """One line for each input row, in order: the label predicted, and a probability for every label, which sum to one."""

    row: Series[np.int64] = pa.Field(ge=1, description="Number of the row in its source file, from 1")
    predicted: Series[str] = pa.Field(description="Label that was predicted")
    probability: Series[float] = pa.Field(
        in_range={"min_value": 0.0, "max_value": 1.0}, description="Probability of `predicted`"
    )

    class Config:
        strict = False


class TokenPredictions(pa.DataFrameModel):
    """One line for each sentence, in order: lists of labels and probabilities, one for each token.

    A token that `max_seq_len` cut off has no probability: NaN.
    """

    row: Series[np.int64] = pa.Field(ge=1, description="Number of the row in its source file, from 1")
    tokens: Series[object] = pa.Field(description="Tokens of the sentence")
    predicted: Series[object] = pa.Field(description="Label that was predicted for each token")
    probability: Series[object] = pa.Field(
        description="Probability of the label that was predicted for each token; NaN for a token that was cut off"
    )

    class Config:
        strict = False

    @pa.dataframe_check(name="as many predictions as tokens")
    def _lengths(cls, frame: Any) -> Any:
        lengths = equal_lengths(frame["tokens"], frame["predicted"])
        return lengths & equal_lengths(frame["tokens"], frame["probability"])

    @pa.check("probability", name="probabilities in 0..1")
    def _range(cls, values: Any) -> Any:
        flat = values.explode().astype(float)
        return (flat.isna() | flat.between(0, 1)).groupby(level=0).all()


EvaluatedModel = type[EvaluatedRows] | type[EvaluatedTokens]
PredictionsModel = type[Predictions] | type[TokenPredictions]


def rising(values: "pd.Series[Any]") -> "pd.Series[bool]":
    """Whether each value is above the one before it."""
    return ~(values.diff() <= 0)


def require_steps(frame: pd.DataFrame, source: str, rates: Rates | None = None) -> pd.DataFrame:
    """The logged steps, once they keep `TrainingSteps`.

    Args:
        frame: columns of `TrainingSteps`.
        source: named in the error.
        rates: learning rate `[steps]` that the schedule has for steps counted from 1 `[steps]`; not checked when not given.

    Raises:
        ContractError: naming the check, how many lines break it, and the first of them.
    """
    schema = _schema(TrainingSteps)
    if rates is not None:
        scheduled = pa.Check(
            lambda steps: pd.Series(
                np.isclose(steps["learning_rate"], rates(steps["step"].to_numpy()), rtol=RATE_TOLERANCE, atol=0.0),
                index=steps.index,
            ),
            name="learning rate as the schedule says",
        )
        schema.checks = [*schema.checks, scheduled]
    return validate_frame(frame, schema, source, "step")


def require_evaluations(frame: pd.DataFrame, source: str, task: str) -> pd.DataFrame:
    """The evaluations of a run, once they keep `Evaluations`; a run without a dev split has none.

    Args:
        frame: one line for each evaluation.
        source: named in the error.
        task: name of the task type, whose metrics these are.

    Raises:
        ContractError: naming the check, how many lines break it, and the first of them.
    """
    if frame.empty:
        return frame

    def are_known(found: Any) -> bool:
        return all(metric_range(task, name) is not None for name in found.columns if name not in _PLACE)

    schema = _schema(Evaluations)
    schema.checks = [*schema.checks, pa.Check(are_known, name="metrics known")]
    return validate_frame(frame, schema, source, "step")


def metrics_frame(metrics: dict[str, dict[str, float]]) -> pd.DataFrame:
    """Metrics by split and name as the table that `Metrics` is about."""
    lines = [(split, name, float(value)) for split, values in metrics.items() for name, value in values.items()]
    columns = {"split": [line[0] for line in lines], "metric": [line[1] for line in lines]}
    return pd.DataFrame({**columns, "value": np.array([line[2] for line in lines], float)}).astype(
        {"split": "str", "metric": "str"}
    )


def require_metrics(metrics: dict[str, dict[str, float]], source: str, task: str) -> dict[str, dict[str, float]]:
    """Metrics by split and name, once they keep `Metrics`.

    Args:
        metrics: by split and name.
        source: named in the error.
        task: name of the task type, whose metrics these are, with their ranges.

    Raises:
        ContractError: naming the check and the first values that break it.
    """

    def are_within(frame: Any) -> Any:
        ranges = [metric_range(task, name) or MetricRange(-np.inf, np.inf) for name in frame["metric"]]
        lowest, highest = np.array([(one.low, one.high) for one in ranges], float).reshape(-1, 2).T
        return (frame["value"] >= lowest) & (frame["value"] <= highest)

    def are_known(names: Any) -> Any:
        return names.map(lambda name: metric_range(task, name) is not None).astype(bool)

    schema = _schema(Metrics)
    schema.checks = [*schema.checks, pa.Check(are_within, name="in its range (0 to 1; a loss from 0; mcc from -1)")]
    schema.columns["metric"].checks = [*schema.columns["metric"].checks, pa.Check(are_known, name="known metric")]
    validate_frame(metrics_frame(metrics), schema, source)
    return metrics


def require_evaluated(
    frame: pd.DataFrame, label_map: LabelMap, rows: Sequence[int] | NDArray[Any], source: str
) -> pd.DataFrame:
    """What evaluate keeps of a split, once it keeps `EvaluatedRows` or `EvaluatedTokens`.

    Args:
        frame: one line for each row; of token rows `label` holds lists.
        label_map: every label, true or predicted, must be in it; where there is a `probability_<label>`, there is one for each.
        rows: the row numbers of the split, in its order.
        source: named in the error.

    Raises:
        ContractError: naming the check, how many rows break it, and the first of them.
    """
    is_list = len(frame) > 0 and isinstance(frame["label"].iloc[0], SEQUENCES)
    model: EvaluatedModel = EvaluatedTokens if is_list else EvaluatedRows
    schema = _labelled(_schema(model), ("label", "predicted"), label_map)
    schema.checks = [*schema.checks, _in_order(rows)]
    if any(str(name).startswith(PROBABILITY) for name in frame.columns):
        schema.checks += [_probabilities([f"{PROBABILITY}{label}" for label in label_map.labels])]
    return validate_frame(frame, schema, source, "row")


def require_predictions(
    frame: pd.DataFrame,
    label_map: LabelMap,
    rows: Sequence[int] | NDArray[Any],
    source: str,
    is_sequence: bool = False,
    top_k: int | None = None,
) -> pd.DataFrame:
    """Predictions, once they keep `Predictions`, or `TokenPredictions` when `is_sequence`.

    Args:
        frame: one line for each input row.
        label_map: of the model: every predicted label must be in it, and `probability_<label>` is there for each.
        rows: the row numbers of the input, in its order.
        source: named in the error.
        is_sequence: whether a row is a sentence.
        top_k: how many labels each row has as a list, in place of a column for each label; there may be fewer labels.

    Raises:
        ContractError: naming the check, how many rows break it, and the first of them.
    """
    model: PredictionsModel = TokenPredictions if is_sequence else Predictions
    schema = _labelled(_schema(model), ("predicted",), label_map)
    schema.checks = [*schema.checks, _in_order(rows)]
    if top_k is not None:
        schema.checks += [_most_probable(min(top_k, label_map.num_classes))]
    elif not is_sequence:
        schema.checks += [_probabilities([f"{PROBABILITY}{label}" for label in label_map.labels])]
    return validate_frame(frame, schema, source, "row")


def split_summary(rows: dict[Split, int], label_counts: dict[Split, dict[str, int]]) -> pd.DataFrame:
    """How often each label occurs in each split, as `SplitSummary` has it.

    Args:
        rows: number of rows by split.
        label_counts: by split, how many rows (tokens, of sentences) have each label.
    """
    parts = [
        pd.DataFrame({"split": split, "rows": rows[split], "label": list(counts), "count": list(counts.values())})
        for split, counts in label_counts.items()
        if counts
    ]
    if not parts:
        return pd.DataFrame(columns=["split", "rows", "label", "count", "share"])
    frame = pd.concat(parts, ignore_index=True).astype({"rows": np.int64, "count": np.int64, "split": "str", "label": "str"})
    frame["share"] = frame["count"] / frame.groupby("split")["count"].transform("sum").clip(lower=1)
    return validate_frame(frame, _schema(SplitSummary), "split summary")


def validate_frame(frame: pd.DataFrame, schema: pa.DataFrameSchema, source: str, named_by: str | None = None) -> pd.DataFrame:
    """`frame`, once it keeps `schema`.

    Raises:
        ContractError: naming each check that fails, how many lines fail it, and the first of them by their `named_by`;
            pandera's own report is its `__cause__`.
    """
    rows = frame.reset_index(drop=True)
    try:
        schema.validate(rows, lazy=True)
    except pa.errors.SchemaErrors as error:
        lines = [f"{source}: breaks the contract {schema.name}", *_faults(error.failure_cases, rows, named_by)]
        raise ContractError("\n".join(lines)) from error
    return frame


def _faults(cases: pd.DataFrame, rows: pd.DataFrame, named_by: str | None) -> list[str]:
    """One line for each check that fails; of a check of several columns, the values are left out."""
    lines = []
    for check, faults in cases.groupby("check", sort=False):
        places = faults["index"].dropna().astype(int).drop_duplicates()
        names = rows[named_by].iloc[places.to_numpy()] if named_by in rows else places + 1
        examples = join_limited((f"{named_by or 'line'} {name}" for name in names), MAX_CASES)
        where = f"; {len(places)} line(s): {examples}" if len(places) else ""
        columns = faults["column"].dropna().astype(str).unique()
        found = join_limited(faults["failure_case"].drop_duplicates().map(_brief), MAX_CASES)
        about = f"{columns[0]}: " if len(columns) == 1 and columns[0] in rows else ""
        values = f"; found {found}" if about or check in ("column_in_dataframe", "column_in_schema") else ""
        lines.append(f"  - {about}expected {check}{where}{values}")
    return lines


def _brief(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:60]}…"  # noqa: PLR2004


def _schema(model: type[pa.DataFrameModel]) -> pa.DataFrameSchema:
    return deepcopy(model.to_schema())  # pandera keeps one for each model: checks added to it would stay


def _labelled(schema: pa.DataFrameSchema, columns: Sequence[str], label_map: LabelMap) -> pa.DataFrameSchema:
    known = pa.Check(known_labels(label_map.labels), name="label of the map")
    for column in columns:
        schema = schema.update_column(column, checks=[*schema.columns[column].checks, known])
    return schema


def _in_order(rows: Sequence[int] | NDArray[Any]) -> pa.Check:
    wanted = np.asarray(rows)

    def same(frame: pd.DataFrame) -> Any:
        return len(frame) == len(wanted) and pd.Series(frame["row"].to_numpy() == wanted, index=frame.index)

    return pa.Check(same, name="one line for each row, in order")


def _most_probable(count: int) -> pa.Check:
    def sound(frame: pd.DataFrame) -> Any:
        if not {TOP_LABELS, TOP_PROBABILITIES} <= set(frame.columns):
            return False
        lengths = frame[TOP_LABELS].map(len).eq(count) & frame[TOP_PROBABILITIES].map(len).eq(count)
        if not lengths.all() or not len(frame):
            return lengths
        table = np.stack(frame[TOP_PROBABILITIES].tolist())
        falls = (np.diff(table, axis=1) <= 0).all(axis=1) & (table >= 0).all(axis=1) & (table.sum(axis=1) <= 1 + SUM_TOLERANCE)
        is_first = frame[TOP_LABELS].str[0].eq(frame["predicted"])
        return is_first & falls & np.isclose(table[:, 0], frame["probability"])

    return pa.Check(sound, name=f"the {count} most probable labels, falling, the predicted one first")


def _probabilities(names: list[str]) -> pa.Check:
    def sound(frame: pd.DataFrame) -> Any:
        if not set(names) <= set(frame.columns):
            return False
        table = frame[names].to_numpy(float)
        inside = ((table >= 0) & (table <= 1)).all(axis=1)
        return pd.Series(inside & (np.abs(table.sum(axis=1) - 1) <= SUM_TOLERANCE), index=frame.index)

    return pa.Check(sound, name="a probability of each label in 0..1, together one")
