"""An Airflow DAG whose tasks call hubflow's stages as plain functions, `.fn`: no Prefect server is needed, and none starts.

Each task runs in a virtual environment that hubflow is installed in: Airflow pins versions of its own of what both need. So a
task imports what it uses, and takes and returns JSON: `model_dump(mode="json")` makes a reference JSON, and `model_validate`
makes it a reference again. XCom holds a path and a hash, while rows and weights stay in the store. Every worker must reach the
store: give a folder that they share, or a URL (`s3://bucket/prefix`).
"""

import os
from typing import Any

from airflow.sdk import dag, task

HUBFLOW_PYTHON = os.environ["HUBFLOW_PYTHON"]  # /opt/hubflow/bin/python, say


@dag(schedule=None, catchup=False, params={"reviews": "reviews.csv", "module": "all-MiniLM-L6-v2", "store": "hubflow-store"})
def fine_tune_reviews() -> None:
    """Reviews with labels become a model."""

    @task.external_python(python=HUBFLOW_PYTHON, expect_airflow=False)
    def ingest(reviews: str, store: str) -> dict[str, Any]:
        from hubflow.schemas import DatasetSpec
        from hubflow.stages import load_dataset

        spec = DatasetSpec(format="csv", train=reviews, dev_fraction=0.2, test_fraction=0.2)
        return load_dataset.fn(spec, "text_classification", store).model_dump(mode="json")

    @task.external_python(python=HUBFLOW_PYTHON, expect_airflow=False)
    def train(dataset_json: dict[str, Any], module: str, store: str) -> dict[str, Any]:
        from hubflow import stages
        from hubflow.schemas import DatasetRef, HeadSettings, ModuleSpec, TrainSettings

        dataset, spec = DatasetRef.model_validate(dataset_json), ModuleSpec(name=module, max_seq_len=32)
        loaded = stages.load_module.fn(spec, store)
        encoded = stages.encode_dataset.fn(dataset, loaded, spec, store)
        head = stages.build_head.fn("text_classification", loaded, dataset, spec, HeadSettings(), store)
        checkpoint = stages.fine_tune.fn(head, encoded, TrainSettings(epochs=2, batch_size=16, learning_rate=1e-4), store)
        return {"checkpoint": checkpoint.model_dump(mode="json"), "encoded": encoded.model_dump(mode="json")}

    @task.external_python(python=HUBFLOW_PYTHON, expect_airflow=False)
    def export(trained: dict[str, Any], store: str) -> dict[str, Any]:
        from hubflow import stages
        from hubflow.schemas import CheckpointRef, EncodedRef, EvaluateSettings

        checkpoint, encoded = CheckpointRef.model_validate(trained["checkpoint"]), EncodedRef.model_validate(trained["encoded"])
        evaluation = stages.evaluate.fn(checkpoint, encoded, EvaluateSettings(), store)
        return stages.export_inference_program.fn(checkpoint, encoded, evaluation, store).model_dump(mode="json")

    store = "{{ params.store }}"
    export(train(ingest("{{ params.reviews }}", store), "{{ params.module }}", store), store)


fine_tune_reviews()
