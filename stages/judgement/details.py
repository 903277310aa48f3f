"""Details of a split from what was summed over its rows. Must not import Paddle."""

from typing import TYPE_CHECKING

import numpy as np

from hubflow.schemas.evaluation import ClassScore, SplitDetails
from hubflow.schemas.labels import LabelMap
from hubflow.schemas.settings import EvaluateSettings
from hubflow.stages.judgement.confused import confusion_of

if TYPE_CHECKING:
    from hubflow.stages.hub.judging import ClassJudge, JudgeOptions
    from hubflow.stages.hub.judging_sequences import SequenceJudge
    from hubflow.stages.hub.metrics import ClassCounts


SCORED_CLASSES = 200
"""Up to so many labels the probability of each is kept for each row, and ROC-AUC is computed."""


def judge_options(settings: EvaluateSettings) -> "JudgeOptions":
    """What the stages measure beside what is measured while training."""
    from hubflow.stages.hub.judging import JudgeOptions

    return JudgeOptions(scored_classes=SCORED_CLASSES)


def split_details(judge: "ClassJudge | SequenceJudge", label_map: LabelMap) -> SplitDetails:
    """What is known of a split beyond its flat metrics."""
    from hubflow.stages.hub.judging import ClassJudge

    rows = judge.rows
    if isinstance(judge, ClassJudge):
        labels, predicted = judge.labels[rows], judge.predicted[rows]
        per_class = class_scores(judge.counts, label_map.labels)
    else:
        labels, predicted = (np.concatenate([one[row] for row in rows]) for one in (judge.labels, judge.predicted))
        per_class = class_scores(judge.entities["default"], judge.reader.kinds)
    confusion = confusion_of(labels, predicted, label_map.labels)
    return SplitDetails(rows=len(rows), per_class=per_class, confusion=confusion)


def class_scores(counts: "ClassCounts", names: tuple[str, ...]) -> dict[str, ClassScore]:
    """Precision, recall, F1 and counts by name of the class."""
    columns = [*counts.scores(), counts.true, counts.predicted]
    found = zip(names, *(column.tolist() for column in columns), strict=True)
    return {
        name: ClassScore(precision=precision, recall=recall, f1=f1, support=support, predicted=predicted)
        for name, precision, recall, f1, support, predicted in found
    }
