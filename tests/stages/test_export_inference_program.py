"""export_inference_program: a folder that stands alone, sealed by its manifest, with all that tells where it came from."""

import json

import pytest
from runs import Run

from hubflow.store.manifest import verify_folder


@pytest.mark.parametrize(("name", "extra"), [("digits_run", set()), ("text_run", {"tokenizer.json"})], ids=["images", "texts"])
def test_the_folder_holds_all_that_predicting_needs(name: str, extra: set[str], request: pytest.FixtureRequest) -> None:
    run: Run = request.getfixturevalue(name)
    manifest = verify_folder(run.export_folder)
    needed = {
        "program.json",
        "program.pdiparams",
        "label_map.json",
        "signature.json",
        "verification.json",
        "card.md",
        "card.html",
    }
    assert set(manifest.files) == needed | extra
    facts = manifest.facts
    assert facts["metrics"] == run.evaluation.metrics
    assert facts["dataset"]["sha256"] == run.dataset.sha256
    assert facts["training"]["settings"] == run.settings.train.result_settings()
    assert facts["versions"]["hubflow"]
    signature = json.loads((run.export_folder / "signature.json").read_text(encoding="utf-8"))
    assert signature["task"] == run.settings.task
