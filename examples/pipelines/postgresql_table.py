"""A table of PostgreSQL becomes a model, and its labels become another table, as a step between two models of dbt.

dbt builds `labelled_reviews` and `new_reviews`. This program reads both with SQL and fills `review_predictions`, which later
models of dbt name as a source. The variables of libpq (PGHOST, PGDATABASE, PGUSER, PGPASSWORD) say where the database is:

    dbt run --select +labelled_reviews +new_reviews
    python postgresql_table.py
    dbt run --select source:hubflow.review_predictions+
"""

import tempfile
from typing import Any

import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
from psycopg.rows import dict_row

from hubflow import stages
from hubflow.schemas import EvaluateSettings, HeadSettings, ModuleSpec, PredictSettings, TrainSettings

TASK = "text_classification"
LABELLED = "SELECT review_id, body AS text, verdict AS label FROM labelled_reviews ORDER BY review_id"
NEW = "SELECT review_id, body AS text FROM new_reviews ORDER BY review_id"
TABLE = """CREATE TABLE IF NOT EXISTS review_predictions (
    review_id bigint PRIMARY KEY, label text NOT NULL, probability double precision NOT NULL)"""


def read(query: str) -> list[dict[str, Any]]:
    """The rows of a query."""
    with psycopg.connect(row_factory=dict_row) as connection:
        return connection.execute(query).fetchall()


def replace_table(rows: list[dict[str, Any]]) -> None:
    """Put rows in place of all that the table holds, in one transaction: readers see the old rows, or all of the new ones."""
    with psycopg.connect() as connection:
        connection.execute(TABLE)
        connection.execute("LOCK TABLE review_predictions IN SHARE ROW EXCLUSIVE MODE")  # a second writer waits, readers do not
        connection.execute("DELETE FROM review_predictions")
        with connection.cursor().copy("COPY review_predictions (review_id, label, probability) FROM STDIN") as copy:
            for row in rows:
                copy.write_row((row["review_id"], row["predicted"], row["probability"]))


def fine_tune(module: ModuleSpec, train: TrainSettings, store: str) -> str:
    """Fine-tune on the labelled reviews; gives the exported folder."""
    dataset = stages.dataset_from_frames.fn(read(LABELLED), TASK, store, dev_fraction=0.2, source="labelled_reviews")
    loaded = stages.load_module.fn(module, store)
    encoded = stages.encode_dataset.fn(dataset, loaded, module, store)
    head = stages.build_head.fn(TASK, loaded, dataset, module, HeadSettings(), store)
    checkpoint = stages.fine_tune.fn(head, encoded, train, store)
    evaluation = stages.evaluate.fn(checkpoint, encoded, EvaluateSettings(), store)
    return f"{store}/{stages.export_inference_program.fn(checkpoint, encoded, evaluation, store).path}"


def predict(export: str) -> int:
    """Label the new reviews; gives the number of them. A review without text is quarantined, and has no prediction."""
    rows, predictions = read(NEW), []
    if rows:
        with tempfile.TemporaryDirectory() as folder:
            pq.write_table(pa.Table.from_pylist(rows), f"{folder}/new.parquet")
            settings = PredictSettings(export=export, data=f"{folder}/new.parquet", output=f"{folder}/predictions.parquet")
            predictions = pq.read_table(stages.predict.fn(settings).output).to_pylist()
    replace_table(predictions)
    return len(predictions)


if __name__ == "__main__":
    spec = ModuleSpec(name="all-MiniLM-L6-v2", max_seq_len=128)
    print(predict(fine_tune(spec, TrainSettings(), "hubflow-store")), "reviews have a prediction")
