"""The flow predict on a real Prefect server: labels a file with an exported folder and publishes where they are."""

from pathlib import Path

import pandas as pd
from runs import Run, write_reviews

from hubflow.flows.predict import predict
from hubflow.schemas.settings import PredictSettings


def test_the_flow_labels_a_file(prefect_server: str, text_run: Run, tmp_path: Path) -> None:
    data = write_reviews(tmp_path / "rows.tsv", 7)
    result = predict(PredictSettings(export=str(text_run.export_folder), data=str(data)))
    assert result.output == f"{data}.predictions.parquet"
    assert result.rows == len(pd.read_parquet(result.output)) == 7
    assert "accuracy" in result.metrics
