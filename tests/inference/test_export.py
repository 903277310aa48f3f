"""Exports: a folder that stands alone predicts what the trained task did, here and in a fresh process."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_exports import KINDS, ROWS, Exported
from small_modules import MAX_SEQ_LEN

from hubflow.inference.predictor import Predictor
from hubflow.schemas.labels import LabelMap
from hubflow.store.store import StoreError
from hubflow.training.checkpoints import versions

pytestmark = pytest.mark.slow

TOLERANCE = 1e-5


@pytest.fixture(params=KINDS)
def exported(request: pytest.FixtureRequest, tiny_exports: dict[str, Exported]) -> Exported:
    return tiny_exports[request.param]


def agree(exported: Exported, row: int, found: Any) -> None:
    expected = exported.expected(row)
    if exported.session.spec.task == "sequence_labelling":
        pieces = exported.split.first_piece[row]  # type: ignore[attr-defined]
        expected, found = expected[pieces[pieces >= 0]], found[pieces >= 0]
    np.testing.assert_allclose(found, expected, atol=TOLERANCE)


@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_the_export_gives_the_test_programs_probabilities(exported: Exported, batch_size: int) -> None:
    predictions = Predictor.load(exported.folder, threads=1).predict(exported.inputs, batch_size)
    assert len(predictions) == ROWS
    for row, prediction in enumerate(predictions):
        agree(exported, row, prediction.probabilities)


@pytest.mark.slow
def test_a_fresh_process_gives_the_same_from_the_folders_alone(tiny_exports: dict[str, Exported], tmp_path: Path) -> None:
    copies = {}
    for kind, exported in tiny_exports.items():
        copies[kind] = str(shutil.copytree(exported.folder, tmp_path / kind))
        inputs = exported.inputs
        if kind == "image":
            inputs = [str(tmp_path / f"{row}.png") for row in range(ROWS)]
            for image, path in zip(exported.inputs, inputs, strict=True):
                image.save(path)
        (tmp_path / f"{kind}.json").write_text(json.dumps(inputs))
    script = f"""
import json, sys, numpy as np
sys.modules["huggingface_hub"] = None
from hubflow.hub import Predictor
for kind, folder in {copies!r}.items():
    predictor = Predictor.load(folder)
    rows = predictor.predict(json.load(open(f"{tmp_path}/{{kind}}.json")), batch_size=3)
    np.savez(f"{tmp_path}/{{kind}}.npz", *[row.probabilities for row in rows])
assert "prefect" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    for kind, exported in tiny_exports.items():
        with np.load(tmp_path / f"{kind}.npz") as found:
            for row in range(ROWS):
                agree(exported, row, found[f"arr_{row}"])


def test_the_folder_holds_all_that_is_needed_and_says_what_it_takes(exported: Exported) -> None:
    names = {"program.json", "program.pdiparams", "label_map.json", "signature.json", "manifest.json"}
    is_image = exported.session.spec.task == "image_classification"
    assert {path.name for path in exported.folder.iterdir()} == names | (set() if is_image else {"tokenizer.json"})
    signature = json.loads((exported.folder / "signature.json").read_text())
    assert signature["task"] == exported.session.spec.task
    assert "label" not in signature["inputs"]
    assert "seq_len" not in signature["inputs"]
    if is_image:
        assert signature["inputs"] == {"image": {"shape": [-1, 3, -1, -1], "dtype": "float32"}}
        rules = {"background": [255, 255, 255], "image_rules": 1}
        assert signature["image"] == {"image_size": 8, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], **rules}
    else:
        assert signature["text"] == {"max_seq_len": MAX_SEQ_LEN, "pad_token_id": 0}
    assert LabelMap.load(exported.folder / "label_map.json") == exported.label_map


@pytest.mark.parametrize("name", ["program.json", "program.pdiparams", "label_map.json", "signature.json", "manifest.json"])
def test_a_missing_or_altered_file_is_refused_before_anything_is_loaded(
    name: str, tiny_exports: dict[str, Exported], tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(tiny_exports["text"].folder, folder)
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    if name != "manifest.json":
        with pytest.raises(StoreError, match=rf"altered since they were written: {name}"):
            Predictor.load(folder)
    (folder / name).unlink()
    with pytest.raises(StoreError, match=name):
        Predictor.load(folder)


def test_versions_name_what_a_result_depends_on() -> None:
    assert {"python", "hubflow", "paddlepaddle", "numpy", "tokenizers"} <= versions().keys()
