"""The shop's own flow: reviews of its database become a model, which is put in use where it is good enough."""

import sqlite3
from pathlib import Path

import pandas as pd
from prefect import flow, task
from schemas.reviews import Reviews

from hubflow import stages
from hubflow.schemas import EvaluateSettings, GateSettings, HeadSettings, ModuleSpec, TrainSettings, VerdictRef

TASK = "text_classification"
RULES = GateSettings(metric="accuracy", min_value=0.7, min_gain=-0.05)


@task
def read_reviews(database: str) -> pd.DataFrame:
    """The shop's own task: a review with four or five stars is good, one with one or two is bad."""
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    reviews = pd.read_sql_query("SELECT id AS row, body AS text, stars FROM reviews WHERE stars != 3 ORDER BY id", connection)
    connection.close()
    return reviews.assign(label=reviews["stars"].gt(3).map({True: "good", False: "bad"}))


@flow
def train_reviews(database: str, module: ModuleSpec, train: TrainSettings, store: str, name: str = "reviews") -> VerdictRef:
    """Fine-tune on the shop's reviews, compare the model with the one in use, and promote it where it is good enough."""
    store = str(Path(store).expanduser())
    dataset = stages.dataset_from_frames(
        read_reviews(database), TASK, store, contract=Reviews, dev_fraction=0.2, test_fraction=0.2
    )
    loaded = stages.load_module(module, store)
    encoded = stages.encode_dataset(dataset, loaded, module, store)
    head = stages.build_head(TASK, loaded, dataset, module, HeadSettings(), store)
    checkpoint = stages.fine_tune(head, encoded, train, store, device="cpu")
    evaluation = stages.evaluate(checkpoint, encoded, EvaluateSettings(), store, "cpu")
    export = stages.export_inference_program(checkpoint, encoded, evaluation, store)
    verdict = stages.gate(export, dataset, RULES, EvaluateSettings(), name, store)
    if verdict.verdict == "promoted":
        stages.promote(verdict, store, by="train_reviews")
    return verdict
