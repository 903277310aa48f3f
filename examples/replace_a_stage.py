"""The fine-tune flow with one stage replaced: rows come from a SQL query instead of a file.

`load_rows` is a task of your own. It hands its rows to `dataset_from_frames`, which holds them to the same contract as the
rows of files and returns the same reference, so every stage after it is hubflow's own and knows no difference. Any other stage
is replaced alike: whatever returns its reference fits. Run from the project's root:

    uv run python examples/replace_a_stage.py
"""

import sqlite3
import sys

import pandas as pd
from prefect import flow, task

from hubflow.schemas.references import DatasetRef, ExportRef
from hubflow.schemas.settings import EvaluateSettings, HeadSettings, ModuleSpec, TrainSettings
from hubflow.stages.build_head import build_head
from hubflow.stages.dataset_from_frames import dataset_from_frames
from hubflow.stages.encode_dataset import encode_dataset
from hubflow.stages.evaluate import evaluate
from hubflow.stages.export_inference_program import export_inference_program
from hubflow.stages.fine_tune import fine_tune
from hubflow.stages.load_module import load_module

TASK = "text_classification"
QUERY = "SELECT id AS row, body, verdict FROM reviews ORDER BY id"


@task
def load_rows(database: str, store: str) -> DatasetRef:
    """Rows of a query, kept as a data set; a share of them becomes dev and test, by seed."""
    connection = sqlite3.connect(database)
    try:
        rows = pd.read_sql_query(QUERY, connection)
    finally:
        connection.close()
    columns = {"text_column": "body", "label_column": "verdict"}
    return dataset_from_frames.fn(rows, TASK, store, dev_fraction=0.2, test_fraction=0.2, source=database, **columns)


@flow
def fine_tune_on_reviews(database: str, module: ModuleSpec, store: str, train: TrainSettings) -> ExportRef:
    """Fine-tune on the reviews of a database and export the result."""
    dataset = load_rows(database, store)
    loaded = load_module(module, store)
    encoded = encode_dataset(dataset, loaded, module, store)
    head = build_head(TASK, loaded, dataset, module, HeadSettings(), store)
    checkpoint = fine_tune(head, encoded, train, store)
    evaluation = evaluate(checkpoint, encoded, EvaluateSettings(), store)
    return export_inference_program(checkpoint, encoded, evaluation, store)


def make_database(path: str) -> None:
    """A small database to try it on; yours takes its place."""
    reviews = [
        (f"{word} film, number {number}", verdict)
        for number in range(40)
        for word, verdict in (("a fine", "good"), ("a dull", "bad"))
    ]
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS reviews (id INTEGER PRIMARY KEY, body TEXT, verdict TEXT)")
        connection.executemany("INSERT INTO reviews (body, verdict) VALUES (?, ?)", reviews)
    connection.close()


if __name__ == "__main__":
    file = sys.argv[1] if len(sys.argv) > 1 else "reviews.sqlite"
    if len(sys.argv) == 1:
        make_database(file)
    spec = ModuleSpec(name="all-MiniLM-L6-v2", max_seq_len=32)
    exported = fine_tune_on_reviews(file, spec, "hubflow-store", TrainSettings(epochs=1, batch_size=16, learning_rate=1e-4))
    print(f"{exported.path}: {exported.metrics['test']}")
