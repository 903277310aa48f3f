"""Small runs of training of each kind, for the tests and for the script that writes their golden losses."""

from pathlib import Path
from typing import Any

from small_modules import (
    ENTITY_LABELS,
    SENTIMENT,
    image_split,
    settings,
    some_texts,
    some_tokens,
    text_split,
    token_split,
)

from hubflow.data.encoded import EncodedSplit
from hubflow.programs.session import Session
from hubflow.schemas.labels import LabelMap
from hubflow.schemas.tasks import TaskName
from hubflow.tasks.task import TaskSpec
from hubflow.training.callbacks import TrainState
from hubflow.training.checkpoints import Checkpoints
from hubflow.training.loop import TrainPlan, train

SIDES = LabelMap(labels=("left", "right"))
TASKS: tuple[TaskName, ...] = ("text_classification", "image_classification", "sequence_labelling")
GOLDEN_ROWS, GOLDEN_STEPS = 40, 20


def learn(task: TaskName, rows: int, folder: Path, tiny_bert: Path, digits_module: Path, **values: Any) -> TrainState:
    """Train one kind of head on `rows` rows that a model can learn."""
    module, labels, split = _rows(task, rows, folder, tiny_bert, digits_module)
    plan = TrainPlan(settings(**values), 0, labels, "loss", split, None)
    session = Session(TaskSpec(task, len(labels.labels)), module, "cpu")
    return train(session, plan, Checkpoints(folder / "run"))


def _rows(
    task: TaskName, count: int, folder: Path, tiny_bert: Path, digits_module: Path
) -> tuple[Path, LabelMap, EncodedSplit]:
    if task == "image_classification":
        return digits_module, SIDES, image_split(folder / "rows", count)
    if task == "text_classification":
        return tiny_bert, SENTIMENT, text_split(folder / "rows", tiny_bert, *some_texts(count))
    return tiny_bert, ENTITY_LABELS, token_split(folder / "rows", tiny_bert, *some_tokens(count), max_seq_len=40)
