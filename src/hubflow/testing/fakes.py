"""Fakes for tests: artifacts that later stages accept, made without training, and references that are in no store."""

import dataclasses
import datetime
import io
import tempfile
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, TypeAdapter, ValidationError

from hubflow.deployment.pointer import read_deployed, verdict_reference
from hubflow.errors import HubflowError
from hubflow.inference.verification import without_verification
from hubflow.modules.weights import HEAD_PREFIX
from hubflow.programs.session import Session, open_session, open_split
from hubflow.runtime.paddle_import import set_variable
from hubflow.schemas.data_checks import DataChecks
from hubflow.schemas.deployment import VERDICT, Verdict
from hubflow.schemas.labels import IGNORED_LABEL, LabelMap
from hubflow.schemas.references import (
    CheckpointRef,
    DatasetRef,
    Decision,
    EncodedRef,
    ExportRef,
    Reference,
    TaskRef,
    VerdictRef,
)
from hubflow.schemas.settings import EvaluateSettings, HeadSettings
from hubflow.schemas.tasks import find_task_type
from hubflow.schemas.training import TrainSettings
from hubflow.stages import (
    build_head,
    dataset_from_frames,
    encode_dataset,
    evaluate,
    export_inference_program,
    load_module,
)
from hubflow.store.store import Store, content_key
from hubflow.testing.modules import TinyModule, make_tiny_image_module, make_tiny_text_module
from hubflow.training.checkpoints import WEIGHTS, environment, save_weights, versions

Kind = Literal["text", "image", "tokens"]
LABELS: dict[Kind, tuple[str, ...]] = {
    "text": ("negative", "positive"),
    "image": ("dark", "light"),
    "tokens": ("O", "B-LOC", "B-PER"),
}
ROWS = {"train": 32, "dev": 12, "test": 12}
_FILLERS = "film book hotel story music service place room song phone team game city plot score product".split()
_BY_LABEL = "awful great fine weak strong odd calm loud red green blue early late north south warm".split()
_NAMES = {"B-LOC": ("Bonn", "Oslo", "Lima"), "B-PER": ("Ada", "Emil", "Mina")}
_PLAUSIBLE: dict[str, Any] = {
    "task": "text_classification",
    "rows": ROWS,
    "metrics": {"test": {"accuracy": 0.9, "loss": 0.3}},
    "best_metric": "accuracy",
    "metric": "accuracy",
    "name": "model",
    "architecture": "bert",
    "module_kind": "text",
    "rows_kind": "text",
}
_LOGIT = 4.0
"""Of the right label, against minus as much of the others."""
_BATCH = 64
R = TypeVar("R", bound=BaseModel)


def fake_dataset(
    store: str | Path,
    task: str = "text_classification",
    labels: Sequence[str] = (),
    rows: Mapping[str, int] | None = None,
    answers: Mapping[Any, Any] | None = None,
) -> DatasetRef:
    """Ingest made-up rows of which a tiny module can learn the label.

    Args:
        store: folder, or URL, of the store.
        task: name of the task; a type of your own gets texts, or images where it takes image modules.
        labels: of the rows, at least two; words such as `positive` by default. Of words of sentences they are tags.
        rows: number of rows by split, `{"train": 32, "dev": 12, "test": 12}` by default.
        answers: label by row, in place of made-up rows: by text, by tuple of two texts, by tuple of words (whose label is a
            list of tags), or by path of an image. They are the rows of each split.

    Returns:
        Reference to the data set.

    Raises:
        HubflowError: as the stage `dataset_from_frames` does.
    """
    kind = _kind(task)
    chosen = tuple(labels) or LABELS[kind]
    counts = dict(rows or ROWS)
    if answers is not None:
        frame = _answered(kind, answers)
        frames = {split: frame.assign(row=np.arange(1, len(frame) + 1)) for split in counts}
        chosen = tuple(labels) or tuple(dict.fromkeys(_labels_in(frame)))
    else:
        frames = {split: _made_up(kind, chosen, count, seed) for seed, (split, count) in enumerate(counts.items())}
    options: dict[str, Any] = {"dev_fraction": 0.0}  # the splits are those that are asked for
    if "text_pair" in frames["train"]:
        options["text_pair_column"] = "text_pair"
    if answers is not None:  # they are in each split because that is asked for
        options["checks"] = DataChecks(same_text_across_splits="ignore", same_normalised_text_across_splits="ignore")
    return dataset_from_frames.fn(frames, task, str(store), labels=chosen, source="hubflow.testing", **options)


def fake_checkpoint(
    store: str | Path,
    task: TaskRef | str = "text_classification",
    encoded: EncodedRef | None = None,
    answers: Mapping[Any, Any] | None = None,
) -> CheckpointRef:
    """Write a checkpoint without training: the head is fitted to the rows in closed form, the module is left as it is.

    `evaluate`, `export_inference_program`, `write_report` and a warm start take it as one that `fine_tune` made.

    Args:
        store: folder, or URL, of the store.
        task: head on a module, as `build_head` gives it; by a task's name, data and head are made up on a tiny module.
        encoded: rows of `train` that the head is fitted to; without them, and with a `TaskRef`, the head stays random.
        answers: as for `fake_dataset`, where `task` is a name.

    Returns:
        Reference to the checkpoint.

    Raises:
        HubflowError: as the stages do, and where `answers` are too many, or contradict each other.
    """
    store = str(store)
    if isinstance(task, str):
        task, encoded = _fake_head(store, task, (), answers)
    opened = Store(store)
    session = open_session(task, opened, "cpu")
    session.initialise(0)
    if encoded is not None:
        _fit_head(session, opened, encoded, is_exact=answers is not None)
    known = encoded or make_reference(EncodedRef, module=task.module)
    settings, metric = TrainSettings(), "loss"
    if encoded is not None:
        names = LabelMap.load(opened.open(encoded).folder / "label_map.json").labels
        metric = find_task_type(task.task).default_best_metric(names)
    outcome = {"best_metric": metric, "best_value": None, "best_epoch": 1, "steps": 1}
    made = {"device": "cpu", "versions": versions(), "environment": environment(), "num_processes": 1}
    facts: dict[str, Any] = {
        "task": task,
        "encoded": known,
        "seed": 0,
        "settings": settings.result_settings(),
        **outcome,
        **made,
    }
    weights = session.weights()
    key = content_key("hubflow.testing", facts, sorted((name, array.tobytes().hex()) for name, array in weights.items()))
    with opened.create("checkpoints", key) as draft:
        save_weights(draft.folder / WEIGHTS, weights)
        step = {"step": [1], "epoch": [1], "loss": [0.0], "learning_rate": [0.0], "grad_norm": [0.0]}
        pd.DataFrame(step).to_parquet(draft.folder / "steps.parquet", index=False)
        nothing = {name: np.array([], np.int64) for name in ("step", "epoch")}
        pd.DataFrame(nothing).to_parquet(draft.folder / "evaluations.parquet", index=False)
        draft.facts |= facts
    sha256 = opened.load("checkpoints", key).sha256
    return CheckpointRef(path=f"checkpoints/{key}", sha256=sha256, task=task, **outcome)


def fake_export(
    store: str | Path,
    labels: Sequence[str] = (),
    answers: Mapping[Any, Any] | None = None,
    task: str = "text_classification",
    is_verified: bool = False,
) -> ExportRef:
    """Write an export that gives the answers asked for: a real inference program, on a tiny module, that was not trained.

    Example:
        `fake_export(store, ["bad", "good"], {"a dull film": "bad", "a fine film": "good"})`: a `Predictor` of it says so. Of a
        text that is not among the answers it says one of the labels.

    Args:
        store: folder, or URL, of the store.
        labels: that the export knows; those of the answers, in their order, by default.
        answers: as for `fake_dataset`, at most 60; made-up rows by default.
        task: name of the task.
        is_verified: whether a fresh process tries the export, as in production, which takes a second more.

    Returns:
        Reference to the export, whose metrics are those of the answers.

    Raises:
        HubflowError: as the stages do, and where the answers are too many, or contradict each other.
    """
    store = str(store)
    head, encoded = _fake_head(store, task, labels, answers)
    checkpoint = fake_checkpoint(store, head, encoded)
    if answers is not None:
        checkpoint = fake_checkpoint(store, head, encoded, answers)
    evaluation = evaluate.fn(checkpoint, encoded, EvaluateSettings(), store, "cpu")
    if is_verified:
        return export_inference_program.fn(checkpoint, encoded, evaluation, store)
    with without_verification():
        return export_inference_program.fn(checkpoint, encoded, evaluation, store)


def fake_verdict(
    verdict: Decision = "promoted",
    store: str | Path | None = None,
    candidate: ExportRef | None = None,
    name: str = "model",
    reason: str = "",
) -> VerdictRef:
    """A verdict of the gate that no gate gave.

    Args:
        verdict: `promoted`, `rejected` or `inconclusive`.
        store: folder, or URL, of a store to write it to, where `promote` and `write_report` accept it; without one, the
            reference lies in no store.
        candidate: the export that it is about; a reference to none by default.
        name: of the deployed pointer.
        reason: why; "made by a test" by default.

    Returns:
        Reference to the verdict, against the revision at which the pointer is now.
    """
    reason = reason or "made by a test"
    candidate = candidate or make_reference(ExportRef)
    if store is None:
        return make_reference(VerdictRef, verdict=verdict, candidate=candidate, name=name, reason=reason)
    opened, deployed = Store(store), read_deployed(str(store), name)
    values = {"verdict": verdict, "candidate": candidate, "name": name, "revision": deployed.revision, "reason": reason}
    content = make_reference(Verdict, **values, deployed=deployed.export, rules=(), at=datetime.datetime.now(datetime.UTC))
    key = content_key("hubflow.testing", content.model_dump(mode="json"))
    with opened.create("verdicts", key) as draft:
        (draft.folder / VERDICT).write_text(content.model_dump_json(indent=1) + "\n", encoding="utf-8")
        draft.facts |= {**values, "at": content.at.isoformat()}
    return verdict_reference(opened.load("verdicts", key))


def make_reference(model: type[R], **values: Any) -> R:
    """A reference, or another model of hubflow, with plausible values; what it refers to is in no store.

    Example:
        >>> make_reference(DatasetRef, num_classes=3).num_classes
        3

    Args:
        model: such as `DatasetRef`, `CheckpointRef` or `EvaluationRef`.
        values: that are to be others than the plausible ones.

    Returns:
        The model, validated.
    """
    made: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        if name in values or not field.is_required():
            continue
        made[name] = _plausible(name, field.annotation, model)
    return model.model_validate({**made, **values})


def _plausible(name: str, kind: Any, model: type[BaseModel]) -> Any:
    """A value for a field: by its name, or the first that its type allows."""
    if name == "path" and issubclass(model, Reference):
        return f"{model.__name__.removesuffix('Ref').lower()}s/fake"
    if name.endswith("sha256"):
        return "0" * 64
    if name in _PLAUSIBLE and _accepts(kind, _PLAUSIBLE[name]):
        return _PLAUSIBLE[name]
    origin, choices = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        made = None if type(None) in choices else _plausible(name, choices[0], model)
    elif origin is not None:
        made = choices[0] if origin is Literal else origin()
    elif issubclass(kind, BaseModel):
        made = make_reference(kind)
    else:
        now = datetime.datetime.now(datetime.UTC)
        made = {str: "made by a test", int: 2, float: 0.5, bool: True, datetime.datetime: now}[kind]
    return made


def _accepts(kind: Any, value: Any) -> bool:
    try:
        TypeAdapter(kind).validate_python(value)
    except ValidationError:
        return False
    return True


def _kind(task: str) -> Kind:
    if task == "sequence_labelling":
        return "tokens"
    return "image" if find_task_type(task).module_kind == "image" else "text"


def _answered(kind: Kind, answers: Mapping[Any, Any]) -> pd.DataFrame:
    if kind == "tokens":
        return pd.DataFrame({"tokens": [list(words) for words in answers], "labels": [list(tags) for tags in answers.values()]})
    if kind == "image":
        return pd.DataFrame({"path": [str(path) for path in answers], "label": list(answers.values())})
    if any(isinstance(row, tuple) for row in answers):
        first, second = zip(*answers, strict=True)
        return pd.DataFrame({"text": first, "text_pair": second, "label": list(answers.values())})
    return pd.DataFrame({"text": list(answers), "label": list(answers.values())})


def _labels_in(frame: pd.DataFrame) -> Iterator[str]:
    if "labels" in frame:
        yield from (tag for row in frame["labels"] for tag in row)
    else:
        yield from frame["label"]


def _made_up(kind: Kind, labels: Sequence[str], count: int, seed: int) -> pd.DataFrame:
    """Rows whose label a person can see: by a word, by how light an image is, by the names in a sentence."""
    generator = np.random.default_rng(seed)
    chosen = [labels[number % len(labels)] for number in range(count)]
    if kind == "image":
        return pd.DataFrame({"image": [_png(labels.index(label), len(labels), generator) for label in chosen], "label": chosen})
    fillers = [[str(word) for word in generator.choice(_FILLERS, 4)] for _ in range(count)]
    if kind == "text":
        word = {label: _BY_LABEL[number % len(_BY_LABEL)] for number, label in enumerate(labels)}
        texts = [
            f"a {word[label]} {' '.join(words)} {seed}{number}"
            for number, (label, words) in enumerate(zip(chosen, fillers, strict=True))
        ]
        return pd.DataFrame({"text": texts, "label": chosen})
    tags = [[labels[0], label, labels[0], labels[0]] for label in chosen]
    for words, label in zip(fillers, chosen, strict=True):
        names = _NAMES.get(label, (label.removeprefix("B-").removeprefix("I-").lower(),))
        words[1] = str(generator.choice(names)) if label != labels[0] else words[1]
    return pd.DataFrame({"tokens": fillers, "labels": tags})


def _png(number: int, labels: int, generator: np.random.Generator) -> bytes:
    level = 40 + number * 170 // max(1, labels - 1)
    pixels = np.clip(level + generator.integers(-25, 26, (8, 8)), 0, 255).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels, "L").save(stream, "PNG")
    return stream.getvalue()


def _fake_head(store: str, task: str, labels: Sequence[str], answers: Mapping[Any, Any] | None) -> tuple[TaskRef, EncodedRef]:
    """A fresh head on a tiny module, and the encoded rows that it is for."""
    dataset = fake_dataset(store, task, labels, answers=answers)
    with tempfile.TemporaryDirectory() as folder:  # a store keeps what it loads
        tiny = _tiny_module(task, folder, answers)
        module = load_module.fn(tiny.spec, store)
        encoded = encode_dataset.fn(dataset, module, tiny.spec, store)
        return build_head.fn(task, module, dataset, tiny.spec, HeadSettings(), store), encoded


def _tiny_module(task: str, folder: str, answers: Mapping[Any, Any] | None) -> TinyModule:
    if _kind(task) == "image":
        return make_tiny_image_module()
    words = sorted(
        {word for row in answers or () for text in ((row,) if isinstance(row, str) else row) for word in text.split()}
    )
    tiny = make_tiny_text_module(folder, words)
    return dataclasses.replace(tiny, spec=tiny.spec.model_copy(update={"max_seq_len": 64}))


def _fit_head(session: Session, store: Store, encoded: EncodedRef, is_exact: bool) -> None:
    """Put least squares from the head's inputs to the labels of the training rows into its output layer."""
    names = [name for name in session.names if name.startswith(HEAD_PREFIX) and ".output." in name]
    weight, bias = (next((name for name in names if name.endswith(end)), None) for end in (".weight", ".bias"))
    if weight is None or bias is None:
        return  # the head of a task type of one's own
    split = open_split(store, encoded, "train")
    given = session.weights()
    size, classes = given[weight].shape
    truth = np.concatenate([feed["label"].reshape(-1) for feed in _feeds(split)])
    counted = truth != IGNORED_LABEL

    def put(name: str, value: NDArray[Any]) -> None:
        set_variable(session.scope, session.names[name], value.astype(np.float32), session.place)

    def logits() -> NDArray[np.float64]:
        variable, program = session.task.test_variable("logits"), session.task.test_program()
        found = [session.run(program, feed, [variable])[0].reshape(-1, classes) for feed in _feeds(split)]
        values: NDArray[np.float64] = np.concatenate(found)[counted].astype(np.float64)
        return values

    put(bias, np.zeros(classes))
    columns = []
    for first in range(0, size, classes):  # the program gives the layer's inputs where its weights choose some of them
        chosen = np.zeros((size, classes))
        width = min(classes, size - first)
        chosen[np.arange(first, first + width), np.arange(width)] = 1
        put(weight, chosen)
        columns.append(logits()[:, :width])
    inputs = np.column_stack([*columns, np.ones(int(counted.sum()))])
    target = np.where(truth[counted][:, None] == np.arange(classes), _LOGIT, -_LOGIT)
    solved = np.linalg.lstsq(inputs, target, rcond=1e-6)[0]
    put(weight, solved[:-1])
    put(bias, solved[-1])
    given_logits = logits()
    right = np.take_along_axis(given_logits, truth[counted][:, None], 1)
    others = np.where(truth[counted][:, None] == np.arange(classes), -np.inf, given_logits)
    wrong = int((right[:, 0] < others.max(1) + _LOGIT / 2).sum())
    if is_exact and wrong:
        raise HubflowError(
            f"{wrong} of {len(inputs)} answers cannot be given: a tiny module gives at most {size}, and each row must have one "
            "answer; give fewer of them"
        )


def _feeds(split: Any) -> Iterator[dict[str, Any]]:
    for first in range(0, len(split), _BATCH):
        yield split.feed(np.arange(first, min(first + _BATCH, len(split))))
