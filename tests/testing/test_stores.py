"""Filled stores, quarantines and assertions: what a test of a flow asks of a store."""

from pathlib import Path

import pandas as pd
import pytest

from hubflow import HubflowError
from hubflow.schemas.deployment import GateSettings
from hubflow.schemas.settings import EvaluateSettings
from hubflow.stages import dataset_from_frames, gate, promote
from hubflow.store.store import Store
from hubflow.testing import (
    FilledStore,
    TinyModule,
    assert_promoted,
    assert_rejected,
    fake_export,
    fake_verdict,
    fill_store,
    read_quarantine,
)


def test_a_filled_store_is_learned_and_a_copy_of_its_own(filled_store: FilledStore) -> None:
    assert filled_store.evaluation.metrics["test"]["accuracy"] == 1
    for reference in (filled_store.dataset, filled_store.checkpoint, filled_store.export):
        assert Store(filled_store.path).open(reference).folder.is_relative_to(filled_store.path)
    assert str(Path(filled_store.path).parent) != str(Path(filled_store.tiny.name).parent)


@pytest.mark.slow
def test_tiny_images_are_learned(tiny_image_module: TinyModule, hubflow_store: str) -> None:
    filled = fill_store(hubflow_store, tiny_image_module, "image_classification")
    assert filled.evaluation.metrics["test"]["accuracy"] == 1


@pytest.mark.slow
def test_tiny_sentences_are_learned(tiny_text_module: TinyModule, hubflow_store: str) -> None:
    filled = fill_store(hubflow_store, tiny_text_module, "sequence_labelling")
    assert filled.evaluation.metrics["test"]["f1"] > 0.8


@pytest.mark.parametrize("wrap", [lambda error: error, lambda error: ExceptionGroup("of a flow", [ValueError(), error])])
def test_quarantined_rows_are_read_by_their_error(hubflow_store: str, wrap: object) -> None:
    rows = pd.DataFrame({"text": ["a film", " ", "a hotel", "a song"], "label": ["a", "b", "b", "a"]})
    with pytest.raises(HubflowError) as caught:
        dataset_from_frames.fn({"train": rows}, "text_classification", hubflow_store)
    found = read_quarantine(hubflow_store, wrap(caught.value))  # type: ignore[operator]
    assert found["row"].tolist() == [2]
    assert "has_text" in str(found["checks"].iloc[0])
    with pytest.raises(HubflowError, match="no rows were quarantined"):
        read_quarantine(hubflow_store, ValueError("another"))


def test_promoted_and_rejected_are_asserted(filled_store: FilledStore) -> None:
    store, export = filled_store.path, filled_store.export
    with pytest.raises(AssertionError, match="nothing is in use as 'films'; there is no verdict"):
        assert_promoted(store, "films")
    rules = GateSettings(metric="accuracy", min_value=0.9)
    promote.fn(gate.fn(export, filled_store.dataset, rules, EvaluateSettings(), "films", store), store)
    assert assert_promoted(store, "films", export) == export
    with pytest.raises(AssertionError, match="the verdict for 'films' is promoted"):
        assert_rejected(store, "films")
    worse = fake_export(store, ["negative", "positive"], {"a great thing": "negative", "an awful thing": "positive"})
    gate.fn(worse, filled_store.dataset, rules, EvaluateSettings(), "films", store)
    assert assert_rejected(store, "films", "below").candidate == worse
    with pytest.raises(AssertionError, match=r"in use as 'films' is .*the last verdict is rejected"):
        assert_promoted(store, "films", worse)


def test_the_newest_verdict_of_the_name_counts(filled_store: FilledStore) -> None:
    fake_verdict("rejected", filled_store.path, filled_store.export, "films")
    fake_verdict("promoted", filled_store.path, filled_store.export, "books")
    assert assert_rejected(filled_store.path, "films").name == "films"
