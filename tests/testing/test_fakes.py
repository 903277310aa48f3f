"""Fakes: later stages take them, an export gives the answers that were asked for, references are valid."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hubflow import HubflowError, Predictor
from hubflow.deployment.pointer import read_deployed, read_verdict
from hubflow.schemas import references
from hubflow.schemas.references import ExportRef, Reference, VerdictRef
from hubflow.schemas.settings import EvaluateSettings, HeadSettings
from hubflow.schemas.training import TrainSettings
from hubflow.stages import build_head, encode_dataset, evaluate, export_inference_program, fine_tune, load_module, promote
from hubflow.store.store import Store
from hubflow.testing import (
    FilledStore,
    TinyModule,
    fake_checkpoint,
    fake_dataset,
    fake_export,
    fake_verdict,
    make_reference,
)

FILMS = {"a dull film": "bad", "a fine film": "good", "nothing good here": "bad", "fine nothing": "good"}


def predicted(store: str, export: ExportRef, rows: Any) -> list[Any]:
    return [
        one.label if isinstance(one.label, str) else list(one.label)
        for one in Predictor.load(Path(store) / export.path).predict(rows)
    ]


def test_an_export_of_texts_gives_the_answers(hubflow_store: str) -> None:
    export = fake_export(hubflow_store, ["good", "bad"], FILMS)
    assert predicted(hubflow_store, export, list(FILMS)) == list(FILMS.values())
    assert export.metrics["test"]["accuracy"] == 1
    assert Store(hubflow_store).open(export).facts["task"] == "text_classification"


@pytest.mark.slow
def test_sixty_answers_of_words_that_the_vocabulary_lacks_are_given(hubflow_store: str) -> None:
    answers = {f"第{number}号 電影 {'好' if number % 3 else '壞'} {number * 7919}": str(number % 4) for number in range(60)}
    export = fake_export(hubflow_store, answers=answers)
    assert predicted(hubflow_store, export, list(answers)) == list(answers.values())


@pytest.mark.slow
@pytest.mark.soak
def test_pairs_words_and_images_have_answers_too(hubflow_store: str, tmp_path: Path) -> None:
    pairs = {("a film", "a movie"): "same", ("a film", "a hotel"): "other", ("a hotel", "a film"): "same"}
    assert predicted(hubflow_store, fake_export(hubflow_store, answers=pairs), list(pairs)) == list(pairs.values())
    words = {("Ada", "visits", "Bonn"): ["B-PER", "O", "B-LOC"], ("the", "film"): ["O", "O"]}
    tagged = fake_export(hubflow_store, answers=words, task="sequence_labelling")
    assert predicted(hubflow_store, tagged, [list(row) for row in words]) == list(words.values())
    images = {}
    for number, label in enumerate(["left", "right", "left"]):
        pixels = np.zeros((8, 8), np.uint8)
        pixels[number, :] = 255
        path = tmp_path / f"{number}.png"
        Image.fromarray(pixels).save(path)
        images[path] = label
    shown = fake_export(hubflow_store, answers=images, task="image_classification")
    assert predicted(hubflow_store, shown, [str(path) for path in images]) == list(images.values())


def test_answers_that_contradict_each_other_are_refused(hubflow_store: str) -> None:
    with pytest.raises(HubflowError, match="of 3 answers cannot be given"):
        fake_export(hubflow_store, answers={"a film": "bad", "A  film": "good", "a dull film": "bad"})


def test_a_checkpoint_is_evaluated_exported_and_trained_on_from(filled_store: FilledStore) -> None:
    store = filled_store.path
    checkpoint = fake_checkpoint(store, filled_store.task, filled_store.encoded)
    evaluation = evaluate.fn(checkpoint, filled_store.encoded, EvaluateSettings(), store, "cpu")
    assert evaluation.metrics["test"]["accuracy"] > 0.5
    export = export_inference_program.fn(checkpoint, filled_store.encoded, evaluation, store)
    assert (Path(store) / export.path / "verification.json").exists()
    settings = TrainSettings(epochs=1, batch_size=8, learning_rate=1e-3)
    warm = fine_tune.fn(filled_store.task, filled_store.encoded, settings, store, device="cpu", warm_start=checkpoint)
    assert warm.steps == 4


def test_without_rows_the_head_is_random_and_with_the_name_of_a_task_all_is_made_up(
    filled_store: FilledStore, hubflow_store: str
) -> None:
    chance = evaluate.fn(
        fake_checkpoint(filled_store.path, filled_store.task),
        filled_store.encoded,
        EvaluateSettings(),
        filled_store.path,
        "cpu",
    )
    assert 0.5 < chance.metrics["test"]["loss"] < 1
    assert fake_checkpoint(hubflow_store, "sequence_labelling").task.num_classes == 3


def test_a_dataset_has_the_rows_that_were_asked_for(hubflow_store: str, tiny_image_module: TinyModule) -> None:
    dataset = fake_dataset(hubflow_store, "image_classification", ["a", "b", "c"], {"train": 9, "test": 3})
    assert dataset.rows == {"train": 9, "test": 3}
    assert dataset.num_classes == 3
    module = load_module.fn(tiny_image_module.spec, hubflow_store)
    encoded = encode_dataset.fn(dataset, module, tiny_image_module.spec, hubflow_store)
    head = build_head.fn("image_classification", module, dataset, tiny_image_module.spec, HeadSettings(), hubflow_store)
    assert fake_checkpoint(hubflow_store, head, encoded).task == head


def test_a_verdict_can_be_promoted_by_where_it_is_in_a_store(filled_store: FilledStore) -> None:
    loose = fake_verdict("rejected", reason="too slow")
    assert (loose.verdict, loose.reason, loose.name) == ("rejected", "too slow", "model")
    kept = fake_verdict("promoted", filled_store.path, filled_store.export, "films")
    assert read_verdict(Store(filled_store.path), kept).candidate == filled_store.export
    promote.fn(kept, filled_store.path)
    assert read_deployed(filled_store.path, "films").export == filled_store.export


@pytest.mark.parametrize(
    "model", [one for one in vars(references).values() if isinstance(one, type) and issubclass(one, Reference)]
)
def test_every_reference_can_be_made_and_changed(model: type[Reference]) -> None:
    made = make_reference(model, path="somewhere/else")
    assert made.path == "somewhere/else"
    assert model.model_validate_json(made.model_dump_json()) == made


def test_an_override_reaches_the_reference() -> None:
    verdict = make_reference(VerdictRef, candidate=make_reference(ExportRef, num_classes=7))
    assert verdict.candidate.num_classes == 7
