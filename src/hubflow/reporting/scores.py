"""Scores by label, type of entity or tag, with their means, as tables. Must not import Paddle or Prefect."""

from collections.abc import Mapping
from dataclasses import dataclass

from hubflow.reporting.labels import cut_label
from hubflow.schemas.evaluation import ClassScore, SplitDetails

MAX_LABELS = 60


@dataclass(frozen=True)
class ScoreLine:
    """Scores of one label, type of entity or tag."""

    label: str
    score: ClassScore


@dataclass(frozen=True)
class ScoreTable:
    """Scores of several labels, types of entities or tags.

    Attributes:
        title: what they are by.
        what: one of them.
        unit: what is counted.
        lines: the worst by F1 first, at most MAX_LABELS.
        more: how many further ones there are.
        averages: precision, recall and F1 by kind: micro, macro, weighted.
    """

    title: str
    what: str
    unit: str
    lines: list[ScoreLine]
    more: int
    averages: Mapping[str, Mapping[str, float]]

    @property
    def has_areas(self) -> bool:
        """Whether any has its ROC-AUC."""
        return any(line.score.roc_auc is not None for line in self.lines)


def score_tables(details: SplitDetails, is_sequence: bool) -> list[ScoreTable]:
    """By label; of sentences by type of entity, as conlleval and as seqeval's strict mode have them, and by tag."""
    if not is_sequence:
        return [_table("By label", "label", "rows", details.per_class, details.averages)]
    tables = [_table("By type of entity", "type", "entities", details.per_class, details.averages)]
    if details.strict is not None:
        title = f"By type of entity, strictly by {details.scheme}" if details.scheme else "By type of entity, strictly"
        tables.append(_table(title, "type", "entities", details.strict.per_class, details.strict.averages))
    if details.per_tag is not None:
        tables.append(_table("By tag", "tag", "words", details.per_tag, {}))
    return tables


def _table(
    title: str, what: str, unit: str, scores: Mapping[str, ClassScore], averages: Mapping[str, Mapping[str, float]]
) -> ScoreTable:
    worst_first = sorted(scores.items(), key=lambda one: one[1].f1)
    lines = [ScoreLine(cut_label(label), score) for label, score in worst_first[:MAX_LABELS]]
    return ScoreTable(title, what, unit, lines, len(scores) - len(lines), averages)
