"""Task types: the names that settings may give, and what every task type says of itself."""

import functools
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, Protocol, runtime_checkable

from pydantic import AfterValidator

from hubflow.errors import SettingsError
from hubflow.schemas.importing import import_object, source_sha256

if TYPE_CHECKING:
    from hubflow.schemas.evaluation import ClassScore, SplitDetails
    from hubflow.schemas.references import ModuleKind, RowKind
    from hubflow.schemas.settings import DataFormat, DatasetSpec

BUILT_IN = {
    "image_classification": "hubflow.tasks.image_classification:ImageClassification",
    "text_classification": "hubflow.tasks.text_classification:TextClassification",
    "sequence_labelling": "hubflow.tasks.sequence_labelling:SequenceLabelling",
}
"""The task types of hubflow, by the name that settings give. A new one is a file in `hubflow.tasks` and a line here."""
OWN_TASK = r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$"
"""A user's own task type: `package.module:ClassName`."""
EXPECTED = "package.module:ClassName of a class that has what hubflow.schemas.tasks.TaskType names, without arguments"
PredictionKind = Literal["image_classification", "text_classification", "sequence_labelling"]


def _known(name: str) -> str:
    if name not in BUILT_IN and re.match(OWN_TASK, name) is None:
        raise ValueError(f"{name!r} is not known; use one of {', '.join(BUILT_IN)}, or package.module:ClassName of your own")
    return name


TaskName = Annotated[str, AfterValidator(_known)]
"""Name of a task type: one of `BUILT_IN`, or `package.module:ClassName` of a user's own."""


class MetricRange(NamedTuple):
    """Which values a metric can have, and which way is better.

    Attributes:
        low: smallest value.
        high: largest value.
        lower_is_better: whether the smallest value is the best; of all others it is the largest.
    """

    low: float = 0.0
    high: float = 1.0
    lower_is_better: bool = False


class ScoreSection(NamedTuple):
    """A table of the report: scores by label, or by type of entity.

    Attributes:
        title: of the table.
        what: heading of its first column.
        unit: what is counted, in the plural.
        scores: by name.
        averages: precision, recall and F1 by kind of mean; empty for none.
    """

    title: str
    what: str
    unit: str
    scores: Mapping[str, "ClassScore"]
    averages: Mapping[str, Mapping[str, float]]


@runtime_checkable
class TaskType(Protocol):
    """All that differs from one task type to another. Nothing else in hubflow asks which type a task is.

    A user's own type is a class in their package that has these names, named in the setting `task` as
    `package.module:ClassName`; a subclass of one of `hubflow.tasks` inherits what it does not change. It is made without
    arguments, in every process that needs it.

    Attributes:
        module_kind: of the modules that it takes.
        formats: of data that hold its rows.
        prediction: how an export's scores become labels: as those of this built-in type. An export names this, so that
            predicting with a stranger's export imports no code of theirs.
        metrics: what is measured on each split, by name, with ranges; these may pick the best weights. `top_<k>_accuracy` is
            known beside them, and metrics of `evaluate.metrics`.
        gated_metrics: those by which the gate can compare two models row by row.
        reads_first_token: whether the head reads the first token of a text alone.
        averages_over_tokens: whether the loss is a mean over tokens, not over rows.
        explains_words: whether the report marks the words of its mistakes.
        row_unit: what a row is, in the plural: `rows` or `sentences`.
        label_unit: what has a label, in the plural: `rows` or `words`.
        length_unit: what the length of a row counts, in the plural.
        label_slices: title of the slices by label.
    """

    module_kind: "ModuleKind"
    formats: tuple["DataFormat", ...]
    prediction: PredictionKind
    metrics: Mapping[str, MetricRange]
    gated_metrics: tuple[str, ...]
    reads_first_token: bool
    averages_over_tokens: bool
    explains_words: bool
    row_unit: str
    label_unit: str
    length_unit: str
    label_slices: str

    def rows_kind(self, spec: "DatasetSpec") -> "RowKind":
        """Kind of rows that data settings give, whose contract is `hubflow.schemas.rows.ROW_MODELS` of it.

        Args:
            spec: where the rows are and how they are written.

        Returns:
            One of `text`, `text_pair`, `tokens` and `image`.
        """
        ...

    def measured_while_training(self, num_classes: int) -> tuple[str, ...]:
        """Metrics that are there after each evaluation while training, and so may pick the best weights.

        Args:
            num_classes: number of labels.

        Returns:
            Names of `metrics`.
        """
        ...

    def default_best_metric(self, labels: Sequence[str] | None) -> str:
        """What picks the best weights unless the settings say so.

        Args:
            labels: of the label map, in order; None where they are not known yet.

        Returns:
            A name of `metrics`.
        """
        ...

    def build_head(self, graph: Any, spec: Any) -> Any:
        """Put the head on a module's outputs.

        Args:
            graph: `hubflow.modules.module.ModuleGraph` of the module, whose program the head is added to.
            spec: `hubflow.tasks.task.TaskSpec`: classes, hidden units, dropout.

        Returns:
            The `hubflow.hub.Task`, whose `probs` has a probability for each label in its last dimension.
        """
        ...

    def streaming_metrics(self, labels: Any, label_map: Any, options: Any, others: Sequence[str] = ()) -> Any:
        """Metrics of a split, to be updated batch by batch.

        Args:
            labels: true label ids of every row `[rows]`; of sequences an array of them by row.
            label_map: of the model.
            options: `hubflow.metrics.streaming.MetricOptions`.
            others: labels that predictions may have and the map has not; their ids follow those of the map.

        Returns:
            A `hubflow.metrics.streaming.StreamingMetrics` with no row evaluated.
        """
        ...

    def score_sections(self, details: "SplitDetails") -> list[ScoreSection]:
        """The report's tables of scores by label.

        Args:
            details: of one split.

        Returns:
            One section for each table, in their order on the page.
        """
        ...


@functools.lru_cache(maxsize=64)
def find_task_type(name: str) -> TaskType:
    """The task type that settings name, made once in a process.

    Raises:
        SettingsError: when it is not known, cannot be imported, or lacks something.
    """
    if name not in BUILT_IN and re.match(OWN_TASK, name) is None:
        raise SettingsError(f"task {name!r} is not known; use one of {', '.join(BUILT_IN)}, or {EXPECTED}")
    found = import_object(BUILT_IN.get(name, name), "task", EXPECTED)
    if not isinstance(found, type):
        raise SettingsError(f"task: {name!r} is no class; expected {EXPECTED}")
    try:
        made = found()
    except Exception as error:
        raise SettingsError(f"task: {name!r} cannot be made without arguments ({error!r}); expected {EXPECTED}") from error
    if not isinstance(made, TaskType):
        lacking = sorted(name for name in _members() if not hasattr(made, name))
        raise SettingsError(f"task: {name!r} lacks {', '.join(lacking)}; expected {EXPECTED}")
    return made


def task_identity(name: str) -> dict[str, str]:
    """What tells one version of a user's own task type from another in keys of the store; of built-in ones nothing."""
    return {} if name in BUILT_IN else {"task_source_sha256": source_sha256(type(find_task_type(name)))}


def _members() -> set[str]:
    return {name for name in (*TaskType.__annotations__, *vars(TaskType)) if not name.startswith("_")}


def metric_range(task: str, name: str) -> MetricRange | None:
    """Range of a metric of a task, or None of one that the task does not have.

    Args:
        task: name of the task type.
        name: of the metric: one of the type's, `top_<k>_accuracy`, or that of a function in `evaluate.metrics`.
    """
    known = find_task_type(task).metrics
    if name in known:
        return known[name]
    if re.fullmatch(r"top_[1-9]\d*_accuracy", name):
        return MetricRange()
    return MetricRange(float("-inf"), float("inf")) if re.match(OWN_TASK, name) else None


def is_lower_better(task: str, metric: str) -> bool:
    """Whether the smallest value of a metric is the best; of all others it is the largest."""
    found = metric_range(task, metric)
    return found is not None and found.lower_is_better
