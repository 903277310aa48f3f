"""Flow predict: label a file of rows, or a folder of images, with an exported folder."""

from prefect import flow

from hubflow.schemas.settings import PredictResult, PredictSettings
from hubflow.stages.predict import predict_task


@flow(name="predict", persist_result=False)
def predict(settings: PredictSettings) -> PredictResult:
    """Label a file of rows, or a folder of images, with an exported folder."""
    return predict_task(settings)
