"""Dagster assets that call hubflow's stages as plain functions, `.fn`: no Prefect server is needed, and none starts.

An asset is a reference: Dagster's I/O manager keeps a path and a hash, while rows and weights stay in the store, under the hash
of what they were made of. So an asset that is materialized again with the same rows takes what the store has.

    dagster asset materialize -f dagster_assets.py --select '*'
"""

import os

import dagster as dg
import pandas as pd

from hubflow import stages
from hubflow.schemas import DatasetRef, EvaluateSettings, ExportRef, HeadSettings, ModuleSpec, PredictSettings, TrainSettings

TASK = "text_classification"


class Hubflow(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Where hubflow keeps what it makes, and which module it fine-tunes."""

    store: str
    module: str

    @property
    def spec(self) -> ModuleSpec:
        """Settings of the module."""
        return ModuleSpec(name=self.module, max_seq_len=32)


@dg.asset
def reviews(hubflow: Hubflow) -> DatasetRef:
    """The labelled reviews, held to their contract."""
    rows = pd.read_csv(os.environ["REVIEWS"])
    return stages.dataset_from_frames.fn(rows, TASK, hubflow.store, dev_fraction=0.2, test_fraction=0.2)


@dg.asset
def review_model(reviews: DatasetRef, hubflow: Hubflow) -> dg.Output[ExportRef]:
    """A model fine-tuned on them; its metrics are the asset's metadata."""
    module = stages.load_module.fn(hubflow.spec, hubflow.store)
    encoded = stages.encode_dataset.fn(reviews, module, hubflow.spec, hubflow.store)
    head = stages.build_head.fn(TASK, module, reviews, hubflow.spec, HeadSettings(), hubflow.store)
    train = TrainSettings(epochs=2, batch_size=16, learning_rate=1e-4)
    checkpoint = stages.fine_tune.fn(head, encoded, train, hubflow.store)
    evaluation = stages.evaluate.fn(checkpoint, encoded, EvaluateSettings(), hubflow.store)
    export = stages.export_inference_program.fn(checkpoint, encoded, evaluation, hubflow.store)
    return dg.Output(export, metadata=export.metrics["test"])


@dg.asset
def labelled_reviews(review_model: ExportRef, hubflow: Hubflow) -> str:
    """New reviews with their labels: the path of the file."""
    export = f"{hubflow.store}/{review_model.path}"
    settings = PredictSettings(export=export, data=os.environ["NEW_REVIEWS"], output=f"{hubflow.store}/labelled.parquet")
    return stages.predict.fn(settings).output


defs = dg.Definitions(
    assets=[reviews, review_model, labelled_reviews],
    resources={"hubflow": Hubflow(store=dg.EnvVar("HUBFLOW_STORE"), module=dg.EnvVar("HUBFLOW_MODULE"))},
    jobs=[dg.define_asset_job("all_assets")],
)
