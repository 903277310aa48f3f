"""The flows: what is deployed. Compositions of stages, nothing else; each is a Prefect flow under its own name."""

from hubflow.flows.demo import demo
from hubflow.flows.fine_tune import fine_tune
from hubflow.flows.nightly import nightly
from hubflow.flows.predict import predict
from hubflow.flows.sweep import sweep

__all__ = ["demo", "fine_tune", "nightly", "predict", "sweep"]
