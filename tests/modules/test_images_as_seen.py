"""Images as a person sees them, from training to predictions: turned, on their background, counted; older exports as made."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from runs import Run, digits_settings, run_stages

from hubflow.data.encoding_monitor import with_encoding
from hubflow.data.report import data_view, read_data_report
from hubflow.errors import SettingsError, StoreError
from hubflow.inference.predictor import Predictor
from hubflow.schemas.parsing import parse_settings
from hubflow.schemas.settings import EvaluateSettings, FineTuneSettings, ModuleSpec, PredictSettings
from hubflow.stages.evaluate_export import evaluate_export
from hubflow.stages.predict import predict
from hubflow.store.manifest import seal

pytestmark = pytest.mark.slow

GREEN = "#008000"


def write_images(folder: Path) -> Path:
    """Digits whose ink is opaque and whose paper is transparent; every second one is stored upside down."""
    from sklearn.datasets import load_digits

    images, targets = load_digits(return_X_y=True)
    exif = Image.Exif()
    exif[0x0112] = 3
    for place, number in enumerate(np.flatnonzero(targets < 2)[:60]):
        ink = Image.fromarray(np.rint(images[number].reshape(8, 8) * (255 / 16)).astype(np.uint8))
        image = Image.new("RGBA", (8, 8), "white")
        image.putalpha(ink)
        path = folder / str(targets[number]) / f"{number:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        if place % 2:
            image.rotate(180).save(path, exif=exif)
        else:
            image.save(path)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    folder = tmp_path_factory.mktemp("seen")
    data = write_images(folder / "images")
    values = digits_settings(folder / "store", module={"name": "digits", "background": GREEN})
    values["data"] = {"format": "image_folder", "train": str(data), "test": str(data)}
    yield run_stages(FineTuneSettings.model_validate(values))


def settings(run: Run, export: Path, output: Path) -> PredictSettings:
    return PredictSettings(export=str(export), data=str(run.settings.data.test), output=str(output))


def test_what_was_done_to_images_is_counted_and_shown(run: Run) -> None:
    artifact = run.store.open(run.encoded)
    assert artifact.facts["image_changes"]["test"] == {"turned": 30, "composited": 60}
    facts = pd.read_parquet(artifact.folder / "test.images.parquet")
    assert facts["changes"].map(len).sum() == 90
    report = with_encoding(
        read_data_report(run.store, run.store.open(run.dataset).folder.name) or {}, run.store, artifact.folder.name
    )
    lines = [line for line in data_view(report)["image_changes"] if line["split"] == "test"]
    assert [(line["change"], line["count"]) for line in lines] == [
        ("turned as their EXIF orientation says", "30"),
        ("transparent parts shown on the background", "60"),
    ]


def test_predictions_on_every_way_are_those_of_training(run: Run, tmp_path: Path) -> None:
    signature = json.loads((run.export_folder / "signature.json").read_text())["image"]
    assert (signature["background"], signature["image_rules"]) == ([0, 128, 0], 1)
    result = predict.fn(settings(run, run.export_folder, tmp_path / "out.parquet"))
    out = pd.read_parquet(result.output)
    evaluated = pd.read_parquet(run.store.open(run.evaluation).folder / "test.parquet")
    np.testing.assert_allclose(out["probability_0"], evaluated["probability_0"], atol=1e-5)
    assert result.metrics["accuracy"] == run.evaluation.metrics["test"]["accuracy"]
    assert "images: 30 turned as their EXIF orientation says; 60 transparent parts shown on the background" in result.notes
    predictor = Predictor.load(run.export_folder)
    paths = out["path"].tolist()
    expected = out[["probability_0", "probability_1"]].to_numpy()
    for inputs in (paths, [Path(path).read_bytes() for path in paths], [Image.open(path) for path in paths]):
        np.testing.assert_allclose(predictor.scores(inputs), expected, atol=1e-5)
    again = evaluate_export.fn(run.export, run.dataset, EvaluateSettings(), run.settings.store)
    assert again.metrics == pytest.approx(run.evaluation.metrics["test"], abs=1e-5)


def test_an_older_export_goes_on_as_it_was_made(run: Run, tmp_path: Path) -> None:
    older = tmp_path / "export"
    shutil.copytree(run.export_folder, older)
    signature = json.loads((older / "signature.json").read_text())
    image = {name: value for name, value in signature["image"].items() if name not in ("background", "image_rules")}
    (older / "signature.json").write_text(json.dumps({**signature, "image": image}), encoding="utf-8")
    manifest = json.loads((older / "manifest.json").read_text())
    seal(older, manifest["kind"], manifest["facts"])
    out = pd.read_parquet(predict.fn(settings(run, older, tmp_path / "out.parquet")).output)
    predictor = Predictor.load(run.export_folder)
    as_stored = []
    for path in out["path"]:
        with Image.open(path) as stored:
            as_stored.append(Image.fromarray(np.asarray(stored.convert("RGB"))))
    np.testing.assert_allclose(out[["probability_0", "probability_1"]], predictor.scores(as_stored), atol=1e-5)
    (older / "signature.json").write_text(json.dumps({**signature, "image": {**image, "image_rules": 99}}), encoding="utf-8")
    seal(older, manifest["kind"], manifest["facts"])
    with pytest.raises(StoreError, match="rules 99, this hubflow knows up to"):
        predict.fn(settings(run, older, tmp_path / "out.parquet"))


@pytest.mark.parametrize("colour", ["white", "#0f0", "#00ff00", [0, 255, 0], (1, 2, 3), "rgb(1, 2, 3)", "DarkOliveGreen"])
def test_a_background_is_any_colour(colour: Any) -> None:
    assert ModuleSpec.model_validate({"name": "digits", "background": colour})


@pytest.mark.parametrize("colour", ["whit", "#ff", "#11223344", [0, 255], [0, 255, 256], [0.5, 0, 0], None, 0, [True, 0, 0]])
def test_what_is_no_colour_is_refused_once(colour: Any) -> None:
    with pytest.raises(SettingsError, match=r"1 setting\(s\) are wrong\n.*background.*expected a colour"):
        parse_settings(ModuleSpec, {"name": "digits", "background": colour})
