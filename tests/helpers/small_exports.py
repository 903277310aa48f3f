"""Small exports for the tests: a task of each kind on a small module, with the rows that it is tried on."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from small_modules import (
    ENTITY_LABELS,
    MAX_SEQ_LEN,
    SENTIMENT,
    image_split,
    some_images,
    some_texts,
    some_tokens,
    text_split,
    token_split,
)

from hubflow.data.encoded import EncodedSplit
from hubflow.inference.export import write_export
from hubflow.programs.session import Session
from hubflow.runtime.paddle_import import set_variable
from hubflow.schemas.labels import LabelMap
from hubflow.schemas.references import RowKind
from hubflow.store.store import Store
from hubflow.tasks.task import TaskSpec

ROWS = 11
ROWS_KINDS: dict[str, RowKind] = {"text": "text", "token": "tokens", "image": "image"}
KINDS = tuple(ROWS_KINDS)


@dataclass
class Exported:
    """A task, its rows, the same rows as a user has them, and its export."""

    session: Session
    split: EncodedSplit
    inputs: list[Any]
    folder: Path
    label_map: LabelMap

    def expected(self, row: int) -> Any:
        """Probabilities that the test program gives of a row run alone."""
        task = self.session.task
        return self.session.run(task.test_program(), self.split.feed(np.array([row])), [task.test_variable("probs")])[0][0]


def export(root: Path, kind: str, tiny_bert: Path, digits: Path) -> Exported:
    if kind == "text":
        texts, labels = some_texts(ROWS)
        inputs: list[Any] = texts
        rows: Any = text_split(root / "rows", tiny_bert, texts, labels)
        spec, module, label_map = TaskSpec("text_classification", 2, (6,)), tiny_bert, SENTIMENT
    elif kind == "token":
        tokens, tags = some_tokens(ROWS)
        inputs, rows = tokens, token_split(root / "rows", tiny_bert, tokens, tags)
        spec, module, label_map = TaskSpec("sequence_labelling", 5), tiny_bert, ENTITY_LABELS
    else:
        inputs = [_image(row) for row in some_images(ROWS)[0]]
        rows = image_split(root / "rows", ROWS)
        spec, module, label_map = TaskSpec("image_classification", 2), digits, LabelMap(labels=("left", "right"))
    session = Session(spec, module, "cpu")
    session.initialise(0)
    for name, value in session.weights().items():
        if name.startswith("head."):
            set_variable(
                session.scope, name, np.random.default_rng(5).standard_normal(value.shape).astype(np.float32), session.place
            )
    store = Store(root / "store")
    with store.create("exports", kind) as draft:
        sizes = {"image_size": 8} if kind == "image" else {"max_seq_len": MAX_SEQ_LEN}
        write_export(session, draft.folder, label_map, ROWS_KINDS[kind], sizes)
        draft.facts |= facts_of(spec.task, label_map)
    return Exported(session, rows, inputs, store.load("exports", kind).folder, label_map)


def facts_of(task: str, label_map: LabelMap) -> dict[str, Any]:
    """What the manifest of every export says."""
    return {"task": task, "num_classes": label_map.num_classes, "label_map_sha256": label_map.sha256}


def _image(pixels: np.ndarray) -> Any:
    return Image.fromarray(pixels.transpose(1, 2, 0))
