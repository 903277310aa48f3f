"""Tables of scores: which tables there are of rows and of sentences, and the worst first."""

import pytest

from hubflow.reporting.splits import MAX_LABELS, ScoreTable, score_table
from hubflow.schemas.evaluation import ClassScore, Confusion, Scores, SplitDetails
from hubflow.schemas.tasks import TaskType
from hubflow.tasks.sequence_labelling import SequenceLabelling
from hubflow.tasks.text_classification import TextClassification

MEANS = {"macro": {"precision": 0.5, "recall": 0.5, "f1": 0.5}}


def score(f1: float, area: float | None = None) -> ClassScore:
    return ClassScore(precision=f1, recall=f1, f1=f1, support=4, predicted=5, roc_auc=area)


def details_of(per_class: dict[str, ClassScore], **more: object) -> SplitDetails:
    confusion = Confusion(labels=None, counts=None, pairs=[], left_out=0)
    return SplitDetails.model_validate(
        {"rows": 9, "per_class": per_class, "averages": MEANS, "confusion": confusion, "calibration": None, **more}
    )


def tables(task: TaskType, details: SplitDetails) -> list[ScoreTable]:
    return [score_table(section) for section in task.score_sections(details)]


def test_the_worst_label_comes_first_and_many_are_cut() -> None:
    labels = {f"label-{n}": score(1 - n / 100) for n in range(MAX_LABELS + 3)}
    (table,) = tables(TextClassification(), details_of(labels))
    assert table.lines[0].label == f"label-{MAX_LABELS + 2}"
    assert len(table.lines) == MAX_LABELS
    assert table.more == 3
    assert table.averages == MEANS
    assert not table.has_areas


@pytest.mark.parametrize("scheme", ["IOB2", None])
def test_entities_have_both_ways_and_tags(scheme: str | None) -> None:
    strict = Scores(per_class={"PER": score(0.1)}, averages=MEANS)
    found = details_of({"PER": score(0.2, 0.9)}, strict=strict, per_tag={"B-PER": score(0.3)}, scheme=scheme)
    default, strictly, tags = tables(SequenceLabelling(), found)
    assert default.has_areas
    assert strictly.title == f"By type of entity, strictly{f' by {scheme}' if scheme else ''}"
    assert [table.lines[0].score.f1 for table in (default, strictly, tags)] == [0.2, 0.1, 0.3]
    assert [table.unit for table in (default, strictly, tags)] == ["entities", "entities", "words"]


def test_a_table_that_was_not_found_is_not_there() -> None:
    assert len(tables(SequenceLabelling(), details_of({"PER": score(0.2)}))) == 1
