"""encode_dataset: a row encoded for each row accepted, cuts counted, bad images quarantined, every image decoded once."""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from PIL import Image, ImageEnhance
from PIL.PngImagePlugin import PngInfo
from runs import WORDS, Run, digits_settings, run_stages
from small_modules import make_tiny_bert

from hubflow.data.encoding import encoding_findings
from hubflow.data.encoding_monitor import with_encoding
from hubflow.data.report import data_view, read_data_report
from hubflow.errors import ContractError, ImageError, SettingsError
from hubflow.evaluation.folder import read_details
from hubflow.modules.images import load_pixels
from hubflow.reporting.splits import shown_mistakes
from hubflow.schemas.data_checks import DataChecks, DriftLimits, DriftSettings
from hubflow.schemas.references import DatasetRef, EncodedRef, Split
from hubflow.schemas.settings import DatasetSpec, FineTuneSettings, ModuleSpec
from hubflow.schemas.tasks import TaskName
from hubflow.stages.dataset_from_frames import dataset_from_frames
from hubflow.stages.encode_dataset import encode_dataset
from hubflow.stages.load_dataset import load_dataset
from hubflow.stages.load_module import load_module
from hubflow.store.manifest import verify_folder
from hubflow.store.store import Store

LOOSE = DataChecks(near_duplicate_images="ignore")


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the stage logged."""
    return [record.getMessage() for record in caplog.records if record.name.endswith("encoding_monitor")]


def test_every_row_is_encoded_in_order(text_run: Run) -> None:
    folder = text_run.store.open(text_run.encoded).folder
    for split, rows in text_run.dataset.rows.items():
        table = pa.ipc.open_file(str(folder / f"{split}.arrow")).read_all()
        assert table["row"].to_pylist() == list(range(2, rows + 2))
        assert max(map(len, table["input_ids"].to_pylist())) <= 16


def test_images_are_encoded_at_the_modules_size(digits_run: Run) -> None:
    assert digits_run.encoded.image_size == digits_run.module.image_size == 32


def test_rows_of_another_kind_than_the_module_are_refused(text_run: Run, digits_run: Run) -> None:
    with pytest.raises(SettingsError, match="rows of kind image cannot be encoded for the text module"):
        encode_dataset.fn(digits_run.dataset, text_run.module, text_run.settings.module, digits_run.settings.store)


def encode_texts(folder: Path, frame: pd.DataFrame, task: TaskName, max_seq_len: int, **more: Any) -> EncodedRef:
    """Rows, for train and dev alike, encoded with a tiny BERT of words."""
    store, spec = str(folder / "store"), ModuleSpec(name=str(folder / "bert"), max_seq_len=max_seq_len)
    if not (folder / "bert").is_dir():
        make_tiny_bert(folder / "bert", WORDS)
    dataset = dataset_from_frames.fn({"train": frame, "dev": frame}, task, store)
    return encode_dataset.fn(dataset, load_module.fn(spec, store), spec, store, **more)


def facts_of(folder: Path, encoded: EncodedRef) -> dict[str, Any]:
    return Store(folder / "store").open(encoded).facts


@pytest.mark.parametrize("as_pair", [False, True])
def test_rows_are_cut_only_when_they_are_longer_not_when_they_are_full(as_pair: bool, tmp_path: Path) -> None:
    words = [1, 3, 4, 4, 5, 9, 30]
    frame = pd.DataFrame({"text": ["film " * count for count in words], "label": ["a", "b", "a", "b", "a", "b", "a"]})
    if as_pair:
        frame["text_pair"] = "joy"
    special = 4 if as_pair else 2  # and the second text
    encoded = encode_texts(tmp_path, frame, "text_classification", 4 + special)
    facts = facts_of(tmp_path, encoded)
    assert facts["truncated"]["dev"] == {"count": 3, "of": 7, "first_rows": [5, 6, 7]}
    assert facts["lengths"]["train"] == {"p99": 30 + special, "longest": 30 + special}
    histogram = facts["length_histogram"]["train"]
    assert sum(histogram["rows"]) == 7
    assert dict(zip(histogram["up_to"], histogram["rows"], strict=True))[4 + special] == 2
    assert "words_lost" not in facts


def test_words_and_entities_that_are_cut_off_are_counted(tmp_path: Path) -> None:
    rows = [
        ("a film of no plot", "O O O B-ORG I-ORG"),  # is cut after `no`: loses one word and its entity
        ("a film", "B-PER B-PER"),
        ("a fine film joy great plot", "B-PER O I-LOC O B-LOC I-LOC"),
        ("a \x01 film", "B-PER B-LOC O"),  # a word without a piece, nothing is cut
        ("film film film film plot", "I-ORG B-ORG I-PER I-PER I-PER"),
    ]
    frame = pd.DataFrame({"tokens": [text.split(" ") for text, _ in rows], "labels": [tags.split() for _, tags in rows]})
    facts = facts_of(tmp_path, encode_texts(tmp_path, frame, "sequence_labelling", 6))
    assert facts["truncated"]["train"] == {"count": 3, "of": 5, "first_rows": [1, 3, 5]}
    assert facts["words_lost"]["train"] == {"count": 4, "of": 21, "first_rows": [1, 3, 5]}
    assert facts["entities_lost"]["train"] == {"count": 3, "of": 11, "first_rows": [1, 3, 5]}


def test_a_longer_row_than_the_module_takes_is_said_to_be_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    frame = pd.DataFrame({"text": ["film " * count for count in (5, 10, 15, 100)], "label": ["a", "b"] * 2})
    encode_texts(tmp_path, frame, "text_classification", 32)
    assert "raise max_seq_len to 102 for every row, or to 102 for 99% of them (the module takes at most 64), or" in caplog.text


def test_a_policy_warns_fails_or_keeps_silent_and_changes_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    frame = pd.DataFrame({"text": ["film " * count for count in range(1, 11)], "label": ["a", "b"] * 5})

    def encode(**checks: Any) -> EncodedRef:
        caplog.clear()
        return encode_texts(tmp_path, frame, "text_classification", 9, checks=DataChecks(**checks))

    expected = (
        "train: 3 of 10 row(s) (30.00%) are cut by max_seq_len 9, expected at most 0.00%; first rows 8, 9, 10; "
        "raise max_seq_len to 12 for every row, or to 12 for 99% of them, or shorten the rows"
    )
    first = encode()
    assert said(caplog) == [expected, expected.replace("train", "dev")]
    assert {record.levelno for record in caplog.records} == {logging.WARNING}
    with pytest.raises(ContractError, match="fail 2 check") as raised:
        encode(truncated_rows="fail")
    assert f"truncated_rows: {expected}" in str(raised.value)
    for silent in ({"truncated_rows": "ignore"}, {"truncated_rows": "fail", "max_truncated_fraction": 0.3}):
        assert encode(**silent) == first
        assert not said(caplog)


def picture(seed: int, side: int = 48) -> Image.Image:
    """A picture of a few soft patches of colour."""
    small = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), np.uint8)
    return Image.fromarray(small).resize((side + 16, side), Image.Resampling.BICUBIC)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Images of two classes for train and dev, six each."""
    for number in range(24):
        folder = tmp_path / "data" / ("train" if number < 12 else "dev") / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        picture(number).save(folder / f"{number:02}.png")
    return tmp_path / "data"


def encode_pictures(data: Path, **more: Any) -> tuple[DatasetRef, EncodedRef]:
    store, spec = str(data.parent / "store"), ModuleSpec(name="digits")
    dataset = load_dataset.fn(
        DatasetSpec(format="image_folder", train=str(data / "train"), dev=str(data / "dev")), "image_classification", store
    )
    return dataset, encode_dataset.fn(dataset, load_module.fn(spec, store), spec, store, **more)


def test_every_image_is_decoded_once_and_known_by_size_means_and_hash(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    really_open = Image.open

    def noted_open(source: Any, **more: Any) -> Image.Image:
        opened.append(os.readlink(f"/proc/self/fd/{source.fileno()}"))
        return really_open(source, **more)

    monkeypatch.setattr(Image, "open", noted_open)
    dataset, encoded = encode_pictures(pictures)
    assert sorted(opened) == sorted(map(str, pictures.rglob("*.png")))
    store = Store(pictures.parent / "store")
    rows = pd.read_parquet(store.open(dataset).folder / "dev.parquet")
    facts = pd.read_parquet(store.open(encoded).folder / "dev.images.parquet")
    assert facts["sha256"].tolist() == rows["sha256"].tolist()
    assert facts["position"].tolist() == list(range(12))
    assert set(zip(facts["width"], facts["height"], strict=True)) == {(64, 48)}
    assert facts["phash"].nunique() == 12
    pixels = load_pixels(rows["path"][3], 32)
    np.testing.assert_allclose(facts.loc[3, ["mean_r", "mean_g", "mean_b"]].to_numpy(float), pixels.mean((1, 2)) / 255, 1e-6)


def note(text: str) -> PngInfo:
    """What makes a file differ though its picture does not."""
    info = PngInfo()
    info.add_text("note", text)
    return info


def test_images_that_look_alike_in_two_splits_are_found(pictures: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = Image.open(pictures / "train" / "a" / "02.png")
    source.save(pictures / "dev" / "a" / "jpeg.jpg", quality=60)
    ImageEnhance.Brightness(source).enhance(0.8).resize((90, 67)).save(pictures / "dev" / "b" / "dim.png")
    (pictures / "dev" / "b" / "same.png").write_bytes((pictures / "train" / "a" / "02.png").read_bytes())
    for split, grey in (("train", 100), ("dev", 101)):
        Image.new("RGB", (40, 40), (grey, grey, grey)).save(pictures / split / "a" / "flat.png")
    for split in ("train", "dev"):
        source.resize((28, 21)).save(pictures / split / "b" / f"small-{split}.png", pnginfo=note(split))
    _, encoded = encode_pictures(pictures)
    artifact = Store(pictures.parent / "store").open(encoded)
    (finding,) = encoding_findings(artifact.folder, artifact.facts, DataChecks())
    assert (finding.check, finding.splits, finding.count) == ("near_duplicate_images", ("train", "dev"), 2)
    assert [example.split(" (")[0] for example in finding.examples] == ["train row 2 ≈ dev row 8", "train row 2 ≈ dev row 15"]
    assert said(caplog) == [finding.message]
    with pytest.raises(ContractError, match=r"2 image\(s\) of dev look like one of train"):
        encode_pictures(pictures, checks=DataChecks(near_duplicate_images="fail"))
    assert encoding_findings(artifact.folder, artifact.facts, LOOSE) == []


def spoil(pictures: Path) -> dict[str, Path]:
    """Damage three images of dev, one in each way."""
    bad = {name: pictures / "dev" / name for name in ("a/12.png", "a/16.png", "b/13.png")}
    bad["a/12.png"].write_bytes(bad["a/12.png"].read_bytes()[:-40])
    bad["a/16.png"].write_bytes(b"no image")
    Image.new("1", (10_001, 10_001)).save(bad["b/13.png"])
    return bad


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_images_that_do_not_decode_are_all_named_and_kept_in_the_quarantine(pictures: Path) -> None:
    bad = spoil(pictures)
    with pytest.raises(ImageError, match=r"3 images cannot be decoded\n") as raised:
        encode_pictures(pictures)
    for path in bad.values():
        assert f"  - {path}: " in str(raised.value)
    assert "3 of 12 in dev; at most a share of 0 may be left out" in str(raised.value)
    (folder,) = (pictures.parent / "store" / "quarantine").iterdir()
    assert str(folder) in str(raised.value)
    kept = pd.read_parquet(folder / "dev.parquet")
    assert kept["path"].tolist() == sorted(map(str, bad.values()))
    assert kept["row"].tolist() == [1, 3, 7]
    assert kept["checks"].map(list).tolist() == [["decodes"]] * 3
    assert kept["error"].str.contains("not an image|at most 100,000,000 pixels are decoded").all()


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_the_rest_goes_on_when_few_enough_do_not_decode(pictures: Path, caplog: pytest.LogCaptureFixture) -> None:
    spoil(pictures)
    dataset, encoded = encode_pictures(pictures, max_invalid_fraction=0.25, checks=LOOSE)
    store = Store(pictures.parent / "store")
    table = pa.ipc.open_file(str(store.open(encoded).folder / "dev.arrow")).read_all()
    assert table["position"].to_pylist() == [1, 3, 4, 5, 7, 8, 9, 10, 11]
    assert table["row"].to_pylist() == [2, 4, 5, 6, 8, 9, 10, 11, 12]
    paths = pd.read_parquet(store.open(dataset).folder / "dev.parquet")["path"]
    pixels = table["pixels"].to_pylist()
    np.testing.assert_array_equal(np.reshape(pixels[2], (3, 32, 32)), load_pixels(paths[4], 32))
    assert said(caplog) == ["dev: 3 of 12 image(s) do not decode and are left out; mend or remove them"]
    with pytest.raises(ImageError, match="3 images cannot be decoded"):  # though the store holds the encoded rows
        encode_pictures(pictures, max_invalid_fraction=0.24)


def test_images_are_compared_with_the_last_ones_and_both_distributions_are_shown(pictures: Path) -> None:
    """The second night's images are brighter."""
    strict = DataChecks(near_duplicate_images="ignore", drift=DriftSettings(psi=DriftLimits(fail=0.5)))
    for number in range(400):
        picture(number, 24).save(pictures / "train" / "ab"[number % 2] / f"more{number}.png")
    dataset, encoded = encode_pictures(pictures, checks=strict)
    store = Store(pictures.parent / "store")
    first = with_encoding(read_data_report(store, store.open(dataset).folder.name), store, store.open(encoded).folder.name)
    assert first["facts"]["profile"]["splits"]["train"]["histograms"]["mean red"]["scale"] == "unit"
    assert [chart.title for chart in data_view(first)["charts"]][:2] == ["train: width", "train: height"]
    for path in sorted(pictures.rglob("*.png")):
        with Image.open(path) as image:
            brighter = image.point(lambda value: 128 + value // 2)
        brighter.save(path)
    with pytest.raises(ContractError, match="train, mean red: expected about what the last data set had") as refused:
        encode_pictures(pictures, checks=strict)
    assert "train, width" not in str(refused.value)
    page = max((store.root / "data-reports").glob("*/data.html"), key=lambda path: path.stat().st_mtime_ns)
    assert "mean red" in page.read_text()
    assert encode_pictures(pictures, checks=LOOSE)


def test_the_page_of_a_run_shows_how_long_rows_are_in_tokens(text_run: Run) -> None:
    store, folders = text_run.store, [text_run.store.open(one).folder.name for one in (text_run.dataset, text_run.encoded)]
    report = with_encoding(read_data_report(store, folders[0]), store, folders[1])
    assert "train: tokens" in [chart.title for chart in data_view(report)["charts"]]


def test_a_split_without_one_sound_image_is_refused_whatever_the_share(pictures: Path) -> None:
    for path in (pictures / "dev").rglob("*.png"):
        path.write_bytes(b"no image")
    with pytest.raises(ImageError, match="12 images cannot be decoded"):
        encode_pictures(pictures, max_invalid_fraction=0.9999)


@pytest.mark.slow
def test_left_out_images_do_not_shift_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each mistake is shown with its own picture."""
    data = tmp_path / "data"
    for number in range(40):
        folder = data / "all" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("L", (16, 16), number * 6).save(folder / f"{number:02}.png")
    for name in ("a/00.png", "a/02.png", "b/11.png"):
        (data / "all" / name).write_bytes(b"no image")
    values = digits_settings(tmp_path / "store", module={"name": "digits", "pretrained": False})
    values["data"] = {"format": "image_folder", "train": str(data / "all"), "dev": str(data / "all")}
    values["train"] = {"epochs": 1, "batch_size": 16, "learning_rate": 1e-5}
    real = encode_dataset.fn
    monkeypatch.setattr("runs.encode_dataset.fn", lambda *args: real(*args, checks=LOOSE, max_invalid_fraction=0.1))
    run = run_stages(FineTuneSettings.model_validate(values))
    evaluated = pd.read_parquet(run.store.open(run.evaluation).folder / "dev.parquet")
    source = run.store.open(run.dataset).folder / "dev.parquet"
    rows = pd.read_parquet(source).iloc[evaluated["position"]]
    assert evaluated["label"].tolist() == rows["label"].tolist()
    assert evaluated["row"].tolist() == rows["row"].tolist()
    assert len(evaluated) == 37
    mistakes = shown_mistakes(evaluated, read_details(run.store, run.evaluation)["dev"].worst, source)
    names = {row: Path(path).name for row, path in zip(rows["row"], rows["path"], strict=True)}
    assert mistakes
    assert [mistake.name for mistake in mistakes] == [names[mistake.row] for mistake in mistakes]


def test_sst2_cut_at_32_tokens_says_how_much(shared_data: Callable[[str], Path], tmp_path: Path) -> None:
    folder = shared_data("sst2")
    texts = pd.read_csv(folder / "dev.tsv", sep="\t", header=None, names=["text", "label"], quoting=3, dtype=str)
    encoded = encode_texts(tmp_path, texts, "text_classification", 32)
    facts = facts_of(tmp_path, encoded)
    cut = facts["truncated"]["dev"]
    assert (cut["count"], cut["of"], cut["first_rows"][:5]) == (104, 872, [2, 14, 35, 39, 41])
    assert facts["lengths"]["dev"] == {"p99": 44, "longest": 50}


def test_flowers_that_look_alike_are_found(shared_data: Callable[[str], Path], tmp_path: Path) -> None:
    flowers = shared_data("flowers")
    names: dict[Split, list[str]] = {
        "train": ["daisy/10466290366_cc72e33532.jpg", "daisy/10993710036_2033222c91.jpg", "rose/15922772266_1167a06620.jpg"],
        "dev": ["daisy/10994032453_ac7f8d9e2e.jpg", "daisy/10993818044_4c19b86c82.jpg", "tulip/15922772266_1167a06620.jpg"],
    }
    frames = {
        split: pd.DataFrame({"path": [str(flowers / name) for name in files], "label": [name.split("/")[0] for name in files]})
        for split, files in names.items()
    }
    frames["train"].loc[3] = [str(flowers / "tulip/100930342_92e8746431_n.jpg"), "tulip"]
    store, spec = str(tmp_path), ModuleSpec(name="digits")
    dataset = dataset_from_frames.fn(frames, "image_classification", store)
    artifact = Store(store).open(encode_dataset.fn(dataset, load_module.fn(spec, store), spec, store))
    (finding,) = encoding_findings(artifact.folder, artifact.facts, DataChecks())
    assert finding.count == 2  # the third file is the same, which the checks of the splits tell
    assert finding.examples[0].startswith("train row 1 ≈ dev row 1 (2 bits")
    assert verify_folder(artifact.folder)
