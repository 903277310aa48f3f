"""Exports that predict in bfloat16: verified with a wider tolerance, evaluated as any other, refused where they cannot be."""

import pytest
from runs import Run

from hubflow.errors import DeviceError, SettingsError
from hubflow.inference.predictor import Predictor
from hubflow.inference.verification import read_verification
from hubflow.programs import precision
from hubflow.schemas.export import ExportSettings
from hubflow.schemas.settings import EvaluateSettings
from hubflow.stages.evaluate_export import evaluate_export
from hubflow.stages.export_inference_program import export_inference_program

HALF = ExportSettings(precision="bfloat16", latency_rounds=3)
HAS_BFLOAT16 = bool(precision.cpu_flags().intersection(precision.BFLOAT16_FLAGS))


@pytest.mark.skipif(not HAS_BFLOAT16, reason="this CPU does not compute in bfloat16")
def test_an_export_in_bfloat16_is_proven_and_evaluated(text_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run, store = text_run, text_run.settings.store
    export = export_inference_program.fn(run.checkpoint, run.encoded, run.evaluation, store, settings=HALF)
    assert export.path != run.export.path
    verification = read_verification(run.store.root / export.path)
    assert verification is not None
    assert (verification.precision, verification.tolerance, verification.metric.tolerance) == ("bfloat16", 0.05, 0.01)
    assert 1e-6 < verification.max_abs_difference < 0.05
    evaluated = evaluate_export.fn(export, run.dataset, EvaluateSettings(), store)
    assert evaluated.metrics["accuracy"] == pytest.approx(verification.metric.exported)
    monkeypatch.setattr(precision, "BFLOAT16_FLAGS", ("a_flag_that_no_cpu_has",))
    with pytest.raises(DeviceError, match="computes in bfloat16, which needs a CPU with a_flag"):
        Predictor.load(run.store.root / export.path)


def test_bfloat16_is_refused_for_images_and_with_onnx(digits_run: Run) -> None:
    with pytest.raises(SettingsError, match="bfloat16 is for text modules"):
        export_inference_program.fn(
            digits_run.checkpoint, digits_run.encoded, digits_run.evaluation, digits_run.settings.store, settings=HALF
        )
    with pytest.raises(ValueError, match="onnx is written of the float32 program"):
        ExportSettings(onnx=True, precision="bfloat16")
