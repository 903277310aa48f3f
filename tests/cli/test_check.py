"""hubflow check: each fault that a fine-tune can meet, told by name with what to do, and all of them at once."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_lines import run_process
from PIL import Image
from runs import WORDS, digits_settings, write_reviews
from small_modules import make_tiny_bert
from typer.testing import CliRunner

from hubflow.cli.main import app
from hubflow.data.quarantine import read_quarantine
from hubflow.errors import ContractError
from hubflow.schemas.settings import DatasetSpec
from hubflow.stages.load_dataset import load_dataset

Values = dict[str, Any]
SLOW_CHECK = """
import os, pathlib, signal, time, types
signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background of a shell ignore it
from hubflow.cli import check
slow = lambda *_, **__: (pathlib.Path(os.environ["BEGUN"]).touch(), time.sleep(300))
check.load_dataset = types.SimpleNamespace(fn=slow)
from hubflow.cli.main import main
main()
"""


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_bert(tmp_path_factory.mktemp("module") / "bert", WORDS)


@pytest.fixture
def sound(tmp_path: Path, module: Path) -> Values:
    return {
        "task": "text_classification",
        "module": {"name": str(module), "max_seq_len": 16},
        "data": {"format": "tsv", "train": str(write_reviews(tmp_path / "train.tsv", 20))},
        "store": str(tmp_path / "store"),
    }


def faults_of(values: Values, folder: Path) -> list[str]:
    config = folder / "run.yaml"
    config.write_text(yaml.safe_dump(values), encoding="utf-8")
    result = CliRunner().invoke(app, ["check", str(config), "--json"])
    assert result.exit_code == 2, result.output
    lines = result.stdout.splitlines()
    assert len(lines) == 1
    report = json.loads(lines[0])
    assert report["sound"] is False
    assert "Traceback" not in result.output
    faults: list[str] = report["faults"]
    return faults


def write(folder: Path, name: str, content: str) -> str:
    (folder / name).write_text(content, encoding="utf-8")
    return str(folder / name)


@pytest.mark.slow
def test_sound_settings_are_told_with_their_facts(sound: Values, tmp_path: Path) -> None:
    config = write(tmp_path, "run.yaml", yaml.safe_dump(sound))
    result = CliRunner().invoke(app, ["check", config])
    assert result.exit_code == 0
    assert "sound. 18 train, 2 dev rows, 2 labels, module" in result.stdout
    assert "train: labels '0' 9, '1' 9\n  row " in result.stdout
    assert "  the model sees: [CLS] a " in result.stdout
    assert "! duplicates_within_split: 16 row(s) of train repeat" in result.stdout
    told = json.loads(CliRunner().invoke(app, ["check", config, "--json"]).stdout)
    assert (told["sound"], told["faults"], told["rows"]) == (True, [], {"train": 18, "dev": 2})
    assert told["labels"] == {"train": {"0": 9, "1": 9}, "dev": {"0": 1, "1": 1}}
    row = told["examples"]["train"]
    assert row["pieces"] == ["[CLS]", *row["text"].split(), "[SEP]"]
    assert row["label"] == ("1" if "fine" in row["text"] else "0")
    assert "duplicates_within_split" in [one["check"] for one in told["findings"]]


def told_of(values: Values, folder: Path) -> Values:
    config = write(folder, "run.yaml", yaml.safe_dump(values))
    result = CliRunner().invoke(app, ["check", config, "--json"])
    assert result.exit_code == 0, result.output
    told: Values = json.loads(result.stdout)
    return told


@pytest.mark.slow
def test_a_sentence_is_shown_with_its_tags_and_pieces(sound: Values, tmp_path: Path) -> None:
    rows = "a O\nfine B-GOOD\nfilm I-GOOD\n\n" * 3 + "dull B-BAD\nfilm O\n\n" * 3
    data = {"format": "conll", "train": write(tmp_path, "train.txt", rows), "dev": write(tmp_path, "dev.txt", rows)}
    values = {**sound, "task": "sequence_labelling", "data": data}
    told = told_of(values, tmp_path)
    assert told["labels"]["dev"] == {"B-BAD": 3, "B-GOOD": 3, "I-GOOD": 3, "O": 6}
    row = told["examples"]["dev"]
    assert (row["tokens"], row["tags"]) == (["a", "fine", "film"], ["O", "B-GOOD", "I-GOOD"])
    assert row["pieces"] == ["[CLS]", "a", "fine", "film", "[SEP]"]
    shown = CliRunner().invoke(app, ["check", str(tmp_path / "run.yaml")]).stdout
    assert "    tokens and tags: a/O fine/B-GOOD film/I-GOOD\n" in shown


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["png", "jpg", "gif"])
def test_an_image_is_shown_by_its_facts(ending: str, tmp_path: Path) -> None:
    modes = {"png": "RGBA", "jpg": "L", "gif": "P"}
    for label in ("cat", "dog"):
        (tmp_path / "images" / label).mkdir(parents=True)
        for number in range(5):
            exif = Image.Exif()
            exif[0x0112] = 6
            image = Image.new("RGB", (24, 16), (200, 200, 200)).convert(modes[ending])
            image.save(tmp_path / "images" / label / f"{number}.{ending}", **({} if ending == "gif" else {"exif": exif}))
    data = {"format": "image_folder", "train": str(tmp_path / "images")}
    values = {**digits_settings(tmp_path / "store"), "data": data}
    row = told_of(values, tmp_path)["examples"]["train"]
    assert (row["mode"], row["width"], row["height"]) == (modes[ending], 24, 16)
    assert row["orientation"] == (1 if ending == "gif" else 6)
    assert row["size"] == 32
    assert row["mean_colour"] == pytest.approx([200] * 3, abs=4)
    assert Path(row["file"]).parent.name == row["label"]
    shown = CliRunner().invoke(app, ["check", str(tmp_path / "run.yaml")]).stdout
    assert row["changes"] == ([] if ending == "gif" else ["turned"])
    turned = "" if ending == "gif" else ", turned by EXIF orientation 6"
    assert f"mode {modes[ending]}, 24 × 16{turned}\n" in shown


def data_faults(folder: Path) -> dict[str, tuple[Values, list[str]]]:
    """Settings of the data by fault, and what the message must say."""
    write_reviews(folder / "reviews.tsv", 4)
    dev = "text\tlabel\na\t0\nb\tseven\n"
    return {
        "no such file": ({"train": str(folder / "revews.tsv")}, ["revews.tsv: no such file", "did you mean 'reviews.tsv'"]),
        "empty file": ({"train": write(folder, "empty.tsv", "")}, ["empty.tsv: the file is empty; expected rows"]),
        "only a header": ({"train": write(folder, "head.tsv", "text\tlabel\n")}, ["head.tsv", "no rows"]),
        "missing column": (
            {"text_column": "texts"},
            ["train.tsv: no column 'texts'", "'id', 'text', 'label'", "did you mean 'text'?", "set text_column"],
        ),
        "unknown label in dev": (
            {"dev": write(folder, "dev.tsv", dev)},
            ["dev.tsv: 1 row(s)", "known labels '0', '1'", "row 3 ('seven')", "correct the label"],
        ),
        "one class only": (
            {"train": write(folder, "one.tsv", "text\tlabel\na\tgood\nb\tgood\n")},
            ["one.tsv: found only the label 'good' in all 2 rows", "expected at least 2 different labels"],
        ),
        "row without text": (
            {"train": write(folder, "blank.tsv", "text\tlabel\na\t0\n  \t1\nb\t1\n")},
            ["blank.tsv: 1 row(s)", "row 3", "neither white space nor invisible", "fill it in or remove the row"],
        ),
    }


@pytest.mark.parametrize(
    "fault",
    [
        "no such file",
        "empty file",
        "only a header",
        "missing column",
        "unknown label in dev",
        "one class only",
        "row without text",
    ],
)
def test_a_fault_of_the_data_names_file_and_row_and_what_to_do(fault: str, sound: Values, tmp_path: Path) -> None:
    given, said = data_faults(tmp_path)[fault]
    faults = faults_of({**sound, "data": {**sound["data"], **given}}, tmp_path)
    assert len(faults) == 1
    assert [part for part in said if part not in faults[0]] == []


def test_num_classes_that_disagrees_names_both_numbers(sound: Values, tmp_path: Path) -> None:
    (fault,) = faults_of({**sound, "head": {"num_classes": 3}}, tmp_path)
    assert "head.num_classes is 3, but the data has 2 labels" in fault


@pytest.mark.parametrize(
    ("length", "said"),
    [
        (0, "module.max_seq_len: Input should be greater than or equal to 1 (found 0)"),
        (2, "max_seq_len 2 leaves no room beside 2 special tokens"),
        (10_000, "max_seq_len is 10000; this module allows 1 to 64 tokens"),
    ],
)
def test_a_max_seq_len_out_of_range_names_the_range(length: int, said: str, sound: Values, tmp_path: Path) -> None:
    (fault,) = faults_of({**sound, "module": {**sound["module"], "max_seq_len": length}}, tmp_path)
    assert said in fault


def test_a_module_folder_without_weights_is_named(sound: Values, tmp_path: Path) -> None:
    bare = make_tiny_bert(tmp_path / "bare", WORDS)
    (bare / "model.safetensors").unlink()
    (fault,) = faults_of({**sound, "module": {"name": str(bare), "max_seq_len": 16}}, tmp_path)
    assert fault.startswith(f"{bare}: no weights (model.safetensors")
    assert "pretrained: false" in fault


def test_an_unknown_module_suggests_known_ones(sound: Values, tmp_path: Path) -> None:
    (fault,) = faults_of({**sound, "module": {"name": "ernei"}}, tmp_path)
    assert "unknown module 'ernei': did you mean 'ernie'?" in fault


@pytest.mark.parametrize("store", ["{file}/store", "/proc/hubflow"])
def test_an_unwritable_store_is_named(store: str, sound: Values, tmp_path: Path) -> None:
    path = store.format(file=write(tmp_path, "file", "text"))
    (fault,) = faults_of({**sound, "store": path}, tmp_path)
    assert f"the store {path} cannot be written" in fault
    assert "choose another `store`" in fault


def test_a_device_that_is_not_there_is_named(sound: Values, tmp_path: Path) -> None:
    (fault,) = faults_of({**sound, "device": "gpu:99"}, tmp_path)
    assert "device 'gpu:99': found" in fault


def test_a_misspelt_setting_has_a_suggestion(sound: Values, tmp_path: Path) -> None:
    (fault,) = faults_of({**sound, "train": {"epoch": 2}}, tmp_path)
    assert "run.yaml: 1 setting(s) are wrong" in fault
    assert "train.epoch: unknown setting; did you mean 'epochs'?" in fault


def test_an_image_that_does_not_decode_is_named(tmp_path: Path) -> None:
    for label in ("cat", "dog"):
        (tmp_path / "images" / label).mkdir(parents=True)
        for number in range(5):
            Image.new("RGB", (8, 8), (number * 20, 0, 0)).save(tmp_path / "images" / label / f"{number}.png")
    (tmp_path / "images" / "cat" / "3.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    data = {"format": "image_folder", "train": str(tmp_path / "images")}
    (fault,) = faults_of({**digits_settings(tmp_path / "store"), "data": data}, tmp_path)
    assert "cat/3.png: not an image that can be decoded" in fault
    assert "mend or remove it" in fault


def test_every_fault_is_told_at_once_although_settings_are_wrong_too(sound: Values, tmp_path: Path) -> None:
    wrong = {
        **sound,
        "module": {"name": "ernei", "max_seq_len": 0},
        "data": {**sound["data"], "dev": str(tmp_path / "nodev.tsv"), "test": write(tmp_path, "e.tsv", ""), "dev_fraction": 2},
        "train": {"epoch": 3, "batch_size": 0},
        "store": "/proc/hubflow",
    }
    faults = faults_of(wrong, tmp_path)
    assert len(faults) == 5
    for said in ("epochs", "batch_size", "max_seq_len", "dev_fraction"):
        assert said in faults[0]
    assert "nodev.tsv: no such file" in faults[1]
    assert "e.tsv: the file is empty" in faults[2]
    assert "unknown module 'ernei'" in faults[3]
    assert "the store /proc/hubflow" in faults[4]


def test_a_wrong_setting_makes_no_second_fault(sound: Values, tmp_path: Path) -> None:
    data = dict(sound["data"])
    data["trian"] = data.pop("train")
    (fault,) = faults_of({**sound, "data": data, "device": "tpu", "store": 3}, tmp_path)
    assert "data.trian: unknown setting; did you mean 'train'?" in fault
    assert "2 setting(s)" not in fault


def test_faults_are_told_to_a_person_one_a_line(sound: Values, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = write(tmp_path, "run.yaml", yaml.safe_dump({**sound, "train": {"epoch": 2}, "store": "/proc/hubflow"}))
    result = CliRunner().invoke(app, ["check", config])
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.count("✗ ") == 2


@pytest.mark.parametrize("store", ["hubflow-store", "deep/er/store", "there/store"])
def test_a_check_leaves_no_folder(
    store: str, sound: Values, tmp_path: Path, write_config: Callable[[Values], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    work, temporary = tmp_path / "work", tmp_path / "temporary"
    (work / "there").mkdir(parents=True)
    temporary.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    assert CliRunner().invoke(app, ["check", write_config({**sound, "store": store})]).exit_code == 0
    assert [path.name for path in work.rglob("*")] == ["there"]
    assert list(temporary.iterdir()) == []


def test_a_check_leaves_a_store_that_is_there_as_it_is(
    sound: Values, tmp_path: Path, write_config: Callable[[Values], str]
) -> None:
    (tmp_path / "store").mkdir()
    assert CliRunner().invoke(app, ["check", write_config(sound)]).exit_code == 0
    assert list((tmp_path / "store").iterdir()) == []


def test_a_fault_points_to_the_file_that_a_run_writes_and_the_check_keeps_none(
    sound: Values, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    train = write(tmp_path, "blank.tsv", "text\tlabel\na\t0\n \t1\nb\t1\n")
    values = {**sound, "data": {**sound["data"], "train": train}}
    (fault,) = faults_of(values, tmp_path)
    assert list(temporary.iterdir()) == []
    assert str(temporary) not in fault + caplog.text
    assert fault.endswith("(a run writes this file; a check keeps none)")
    (path,) = re.findall(r"in (\S+/train\.parquet)", fault)
    spec = DatasetSpec.model_validate(values["data"])
    with pytest.raises(ContractError):
        load_dataset.fn(spec, "text_classification", values["store"])
    assert read_quarantine(path)["row"].tolist() == [3]


CODE = "import pathlib\npathlib.Path({folder!r}, 'ran_' + __name__).touch()\n"
RULES = """
import pandera.pandas as pa
from hubflow.schemas.rows import TextRows

class Rows(TextRows):
    @pa.check("text")
    def has_words(cls, text):
        return text.str.len() > 10_000

def share(evaluated, labels):
    raise ValueError("tried")
"""


@pytest.fixture
def strange(sound: Values, tmp_path: Path) -> tuple[Path, Path]:
    """A folder of somebody else's whose settings and files would run code, and a folder in which that code leaves a file."""
    folder, marks = tmp_path / "strange", tmp_path / "marks"
    folder.mkdir()
    marks.mkdir()
    code = CODE.format(folder=str(marks))
    for name in ("yaml", "prefect", "torch", "numexpr", "sitecustomize", "IPython", "rules"):
        (folder / f"{name}.py").write_text(code + (RULES if name == "rules" else ""))
    (folder / "prefect.toml").write_text('[logging]\nconfig_path = "logging.yaml"\n')
    (folder / ".env").write_text("PREFECT_LOGGING_CONFIG_PATH=logging.yaml\n")
    handler = {"()": "os.mkdir", "path": str(marks / "ran_by_logging")}
    (folder / "logging.yaml").write_text(yaml.safe_dump({"version": 1, "handlers": {"x": handler}}))
    data = {**sound["data"], "contract": "rules:Rows"}
    values = {**sound, "data": data, "evaluate": {"metrics": ["rules:share"]}}
    (folder / "run.yaml").write_text(yaml.safe_dump(values))
    return folder, marks


def run_there(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [str(Path(sys.executable).parent / "hubflow"), *arguments]
    return subprocess.run(command, check=False, cwd=folder, capture_output=True, text=True, timeout=600)


@pytest.mark.slow
def test_a_check_runs_no_code_of_a_strange_folder(strange: tuple[Path, Path]) -> None:
    folder, marks = strange
    done = run_there(folder, "check", "run.yaml")
    assert done.returncode == 0, done.stderr
    assert "! data.contract 'rules:Rows' was not imported: rows were checked by hubflow's own contract alone" in done.stdout
    assert "! evaluate.metrics 'rules:share' were not imported, and not tried on the rows" in done.stdout
    assert list(marks.iterdir()) == []
    done = run_there(folder, "check", "run.yaml", "--json")
    assert len(json.loads(done.stdout)["not_imported"]) == 2
    assert list(marks.iterdir()) == []


@pytest.mark.slow
def test_a_check_imports_what_it_is_allowed_to(strange: tuple[Path, Path]) -> None:
    folder, marks = strange
    done = run_there(folder, "check", "run.yaml", "--allow-imports", "--json")
    report = json.loads(done.stdout)
    assert (done.returncode, report["not_imported"]) == (2, [])
    assert any("has_words" in fault for fault in report["faults"])
    assert [mark.name for mark in marks.iterdir()] == ["ran_rules"]


@pytest.mark.slow
def test_a_prediction_runs_no_code_of_a_strange_folder(strange: tuple[Path, Path]) -> None:
    folder, marks = strange
    done = run_there(folder, "predict", "no-export", "run.yaml")
    assert (done.returncode, "no-export: no such folder" in done.stderr) == (2, True)
    assert list(marks.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_check_that_is_stopped_leaves_nothing_behind(sent: signal.Signals, sound: Values, tmp_path: Path) -> None:
    temporary, begun = tmp_path / "temporary", tmp_path / "begun"
    temporary.mkdir()
    config = write(tmp_path, "run.yaml", yaml.safe_dump(sound))
    command = [sys.executable, "-c", SLOW_CHECK, "check", config]
    environment = {**os.environ, "TMPDIR": str(temporary), "BEGUN": str(begun)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE) as process:
        while not begun.exists() and process.poll() is None:
            time.sleep(0.05)
        assert [path.name.startswith("hubflow-check-") for path in temporary.iterdir()] == [True]
        process.send_signal(sent)
        assert process.wait(60) != 0
    assert list(temporary.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.8, 1.5])
def test_a_check_that_is_stopped_while_it_imports_leaves_nothing_behind(seconds: float, sound: Values, tmp_path: Path) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    config = write(tmp_path, "run.yaml", yaml.safe_dump(sound))
    command = [str(Path(sys.executable).with_name("hubflow")), "check", config]
    with subprocess.Popen(command, env={**os.environ, "TMPDIR": str(temporary)}, stderr=subprocess.PIPE) as process:
        time.sleep(seconds)
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    assert list(temporary.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("as_json", [True, False])
def test_a_warning_about_a_file_obeys_nothing_whoever_prints_it(as_json: bool, tmp_path: Path) -> None:
    """Prefect, once imported, prints what hubflow logs by a handler of its own."""
    data = write(tmp_path, "\x1b]0;title\x07train.tsv", "text\tlabel\na fine film\t1\na dull film\t0\na film\t\nno film\t0\n")
    values = {"task": "text_classification", "data": {"format": "tsv", "train": data, "max_invalid_fraction": 0.5}}
    config = write(tmp_path, "run.yaml", yaml.safe_dump(values))
    command = [str(Path(sys.executable).with_name("hubflow")), "check", config, *(["--json"] if as_json else [])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "\\x1b]0;title" in done.stderr
    assert "\x1b" not in done.stdout + done.stderr


@pytest.fixture
def write_config(tmp_path: Path) -> Callable[[Values], str]:
    return lambda values: write(tmp_path, "run.yaml", yaml.safe_dump(values))


@pytest.mark.slow
def test_a_task_type_of_ones_own_is_imported_only_when_that_is_allowed(sound: Values, tmp_path: Path) -> None:
    (tmp_path / "own_task.py").write_text(
        "from pathlib import Path\n"
        "from hubflow.tasks.text_classification import TextClassification\n"
        "Path(__file__).with_name('ran').touch()\n"
        "class Own(TextClassification):\n"
        "    formats = ('csv',)\n"
    )
    config = write(tmp_path, "run.yaml", yaml.safe_dump({**sound, "task": "own_task:Own"}))
    without = run_process("check", config, "--json", PYTHONPATH=str(tmp_path))
    assert without.returncode == 0, without.stderr
    assert "task 'own_task:Own' was not imported: data and head were not checked" in without.stdout
    assert not (tmp_path / "ran").exists()
    allowed = run_process("check", config, "--json", "--allow-imports", PYTHONPATH=str(tmp_path))
    assert allowed.returncode != 0
    assert "data.format 'tsv' holds no rows for own_task:Own; use one of csv" in allowed.stdout + allowed.stderr
    assert (tmp_path / "ran").exists()


def test_variables_without_a_server_are_named_and_nothing_is_started(tmp_path: Path) -> None:
    config = tmp_path / "settings.yaml"
    config.write_text("task: text_classification\ndata: {format: csv, train: prefect://variables/x}\n", encoding="utf-8")
    done = run_process("check", str(config), PREFECT_HOME=str(tmp_path / "prefect"))
    assert done.returncode == 2
    shown = " ".join((done.stdout + done.stderr).split())
    assert "it names Prefect Variables (prefect://variables/…), which are on a Prefect server; set PREFECT_API_URL" in shown
    assert "temporary" not in shown
