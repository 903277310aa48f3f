"""A Kedro pipeline whose nodes call hubflow's stages as plain functions; `kedro_catalog.yml` says where the data lies.

Kedro reads and writes rows and references through its catalog, and hubflow keeps what it makes in its store. In the catalog, a
reference is JSON: `model_dump(mode="json")` makes it so, and `model_validate` makes it a reference again.
"""

from typing import Any

import pandas as pd
from kedro.pipeline import Node, Pipeline

from hubflow import Predictor, stages
from hubflow.schemas import DatasetRef, EvaluateSettings, HeadSettings, ModuleSpec, TrainSettings

TASK = "text_classification"


def ingest(reviews: pd.DataFrame, store: str) -> dict[str, Any]:
    """Hold the reviews to their contract."""
    return stages.dataset_from_frames.fn(reviews, TASK, store, dev_fraction=0.2, test_fraction=0.2).model_dump(mode="json")


def fine_tune(dataset: dict[str, Any], module: dict[str, Any], train: dict[str, Any], store: str) -> dict[str, Any]:
    """Fine-tune on them, and export the model."""
    rows, spec = DatasetRef.model_validate(dataset), ModuleSpec.model_validate(module)
    loaded = stages.load_module.fn(spec, store)
    encoded = stages.encode_dataset.fn(rows, loaded, spec, store)
    head = stages.build_head.fn(TASK, loaded, rows, spec, HeadSettings(), store)
    checkpoint = stages.fine_tune.fn(head, encoded, TrainSettings.model_validate(train), store)
    evaluation = stages.evaluate.fn(checkpoint, encoded, EvaluateSettings(), store)
    return stages.export_inference_program.fn(checkpoint, encoded, evaluation, store).model_dump(mode="json")


def label(export: dict[str, Any], new_reviews: pd.DataFrame, store: str) -> pd.DataFrame:
    """Label the new reviews; their own columns stay."""
    predictions = Predictor.load(f"{store}/{export['path']}").predict(new_reviews)
    return new_reviews.assign(label=[one.label for one in predictions], probability=[one.probability for one in predictions])


def create_pipeline(**_: Any) -> Pipeline:
    """The three nodes; `conf/base/parameters.yml` has `store`, `module` and `train`."""
    return Pipeline(
        [
            Node(ingest, ["reviews", "params:store"], "dataset"),
            Node(fine_tune, ["dataset", "params:module", "params:train", "params:store"], "export"),
            Node(label, ["export", "new_reviews", "params:store"], "labelled_reviews"),
        ]
    )
