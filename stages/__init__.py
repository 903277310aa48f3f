"""The stages: Prefect tasks, each under its own name; `.fn` is the plain function, for tests and other engines."""

from hubflow.stages.build_head import build_head
from hubflow.stages.dataset_from_frames import dataset_from_frames
from hubflow.stages.encode_dataset import encode_dataset
from hubflow.stages.evaluate import evaluate
from hubflow.stages.evaluate_export import evaluate_export
from hubflow.stages.export_inference_program import export_inference_program
from hubflow.stages.fine_tune import fine_tune
from hubflow.stages.gate import gate
from hubflow.stages.load_dataset import load_dataset
from hubflow.stages.load_module import load_module
from hubflow.stages.predict import predict
from hubflow.stages.predict_sample import predict_sample
from hubflow.stages.promote import promote
from hubflow.stages.write_report import write_report

__all__ = [
    "build_head",
    "dataset_from_frames",
    "encode_dataset",
    "evaluate",
    "evaluate_export",
    "export_inference_program",
    "fine_tune",
    "gate",
    "load_dataset",
    "load_module",
    "predict",
    "predict_sample",
    "promote",
    "write_report",
]
