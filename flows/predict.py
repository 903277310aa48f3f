"""Flow predict: label a file of rows, or a folder of images, with an exported folder."""

from prefect import flow

from hubflow.flows.store_access import use_block
from hubflow.schemas.settings import PredictResult, PredictSettings
from hubflow.stages.predict import predict_task
from hubflow.stages.store import split_address


@flow(name="predict", persist_result=False)
def predict(settings: PredictSettings) -> PredictResult:
    """Label a file of rows, or a folder of images, with an exported folder."""
    if settings.store_block is not None:
        use_block(split_address(settings.export)[0], settings.store_block)
    return predict_task(settings)
