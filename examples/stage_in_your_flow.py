"""One stage of hubflow inside a flow of your own, between your own tasks.

Your task writes the day's messages to a file, the stage `predict` labels them with an exported folder, and your next task does
with the labels what your business needs. Nothing else of hubflow is involved: a stage is a Prefect task like any other, and
`predict.fn` is the same as a plain function, for code without Prefect. Run from the project's root, with
a folder that `hubflow fine-tune` exported:

    uv run python examples/stage_in_your_flow.py hubflow-store/exports/…
"""

import sys
from pathlib import Path

import pandas as pd
from prefect import flow, task

from hubflow.schemas.settings import PredictSettings
from hubflow.stages import predict

MESSAGES = ("a fine film", "a dull film", "never so bored", "what a joy")


@task
def fetch_messages(folder: str) -> str:
    """Your own task before the stage: writes a file of messages, with a column of its own."""
    path = Path(folder) / "messages.csv"
    pd.DataFrame({"customer": range(100, 100 + len(MESSAGES)), "text": MESSAGES}).to_csv(path, index=False)
    return str(path)


@task
def count_by_label(predictions: str) -> dict[str, int]:
    """Your own task after the stage: the predictions are a table with your columns and the labels."""
    counts = pd.read_csv(predictions)["predicted"].astype(str).value_counts()
    return {str(label): int(count) for label, count in counts.items()}


@flow
def sort_messages(export: str, folder: str) -> dict[str, int]:
    """Label the messages of the day and count them by label."""
    messages = fetch_messages(folder)
    labelled = predict(PredictSettings(export=export, data=messages, output=str(Path(folder) / "labelled.csv")))
    return count_by_label(labelled.output)


if __name__ == "__main__":
    print(sort_messages(sys.argv[1], "."))
