"""The command line: one machine-readable line, faults as messages with exit code 2, and the same outcome in a fresh process."""

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from command_lines import one_line, run, run_process
from runs import Run, digits_settings

from hubflow.modules.registry import known_modules
from hubflow.schemas.references import DatasetRef, FineTuneResult
from hubflow.schemas.settings import FineTuneSettings
from hubflow.store.store import Store

STAGES = (
    "load_dataset",
    "load_module",
    "encode_dataset",
    "build_head",
    "fine_tune",
    "evaluate",
    "export_inference_program",
    "write_report",
)


def test_the_version_is_that_of_the_package() -> None:
    done = run_process("--version")
    assert (done.returncode, done.stdout) == (0, f"hubflow {version('hubflow')}\n")


def write_config(folder: Path, values: dict[str, Any]) -> str:
    (folder / "run.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    return str(folder / "run.yaml")


OWN_CONTRACT = """
import pandera.pandas as pa
from pandera.typing import Series
from hubflow.schemas.rows import TextRows

class Reviews(TextRows):
    stars: Series[int] = pa.Field(ge=1, le=5, coerce=True)
"""


@pytest.mark.slow
def test_a_contract_of_the_working_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_contracts.py").write_text(OWN_CONTRACT)
    rows = "".join(f"review {place},{place % 2},{place % 5 + 1}\n" for place in range(40))
    (tmp_path / "reviews.csv").write_text(f"text,label,stars\n{rows}odd,1,9\n")
    data = {"format": "csv", "train": "reviews.csv", "contract": "my_contracts:Reviews"}
    module = {"name": str(tmp_path / "no module")}
    config = write_config(tmp_path, {"name": "r", "task": "text_classification", "module": module, "data": data})
    checked = run_process("check", config, "--allow-imports")
    assert checked.returncode == 2
    assert "row 42" in checked.stderr
    assert "stars" in checked.stderr


@pytest.mark.soak
def test_fine_tune_then_predict_in_fresh_processes_print_one_line_each(tmp_path: Path, prefect_server: str) -> None:
    config = write_config(tmp_path, digits_settings(tmp_path / "store"))
    tuned = run_process("fine-tune", config, "--json", "--set", "train.epochs=1", PREFECT_API_URL=prefect_server)
    assert tuned.returncode == 0, tuned.stderr
    result = FineTuneResult.model_validate(one_line(tuned.stdout))
    assert result.store == str(tmp_path / "store")
    assert set(result.metrics) == {"dev", "test"}
    assert tuple(result.seconds) == STAGES
    assert Path(result.report).is_file()
    assert "fine_tune" in tuned.stderr

    rows = pd.read_parquet(Store(result.store).open(_dataset(result)).folder / "test.parquet")
    images = tmp_path / "images"
    for row in rows.itertuples():
        folder = images / str(row.label)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{row.row}.png").write_bytes(row.image)
    predicted = run_process("predict", result.export, str(images), "--json", "--output", str(tmp_path / "out.csv"))
    assert predicted.returncode == 0, predicted.stderr
    outcome = one_line(predicted.stdout)
    assert outcome["rows"] == len(rows) == len(pd.read_csv(outcome["output"]))
    assert outcome["metrics"]["accuracy"] == result.metrics["test"]["accuracy"]


def _dataset(result: FineTuneResult) -> DatasetRef:
    manifest = json.loads((Path(result.export) / "manifest.json").read_text(encoding="utf-8"))
    return DatasetRef.model_validate(manifest["facts"]["dataset"])


def test_fine_tune_prints_a_table_and_where_everything_is(tmp_path: Path, prefect_server: str, digits_run: Run) -> None:
    config = write_config(tmp_path, digits_run.settings.model_dump(mode="json"))
    result = run("fine-tune", config)
    assert result.exit_code == 0, result.output
    for word in ("metric", "balanced_accuracy", "dev", "test", "report    ", "export    "):
        assert word in result.stdout
    assert digits_run.export.path in result.stdout


def test_a_fault_in_a_fresh_process_is_a_message_and_one_line_without_traceback(tmp_path: Path) -> None:
    config = write_config(tmp_path, {**digits_settings(tmp_path / "store"), "sede": 1})
    result = run_process("fine-tune", config, "--json")
    assert result.returncode == 2
    assert "sede: unknown setting; did you mean 'seed'?" in one_line(result.stdout)["error"]
    assert result.stderr.startswith("hubflow: ")
    assert "Traceback" not in result.stderr


def test_an_unwritable_store_is_told_before_anything_starts(tmp_path: Path) -> None:
    config = write_config(tmp_path, digits_settings(Path("/proc/hubflow")))
    result = run("fine-tune", config, "--json")
    assert result.exit_code == 2
    assert "the store /proc/hubflow cannot be written" in one_line(result.stdout)["error"]


def test_a_fault_of_a_stage_comes_through_the_flow(tmp_path: Path, prefect_server: str) -> None:
    config = write_config(tmp_path, digits_settings(tmp_path / "store", head={"num_classes": 9}))
    result = run("fine-tune", config, "--json")
    assert result.exit_code == 2
    assert "head.num_classes is 9, but the data has 3 labels" in one_line(result.stdout)["error"]
    assert "hubflow: head.num_classes is 9" in result.stderr


@pytest.mark.slow
def test_a_prefect_server_that_cannot_be_reached_is_named(tmp_path: Path) -> None:
    config = write_config(tmp_path, digits_settings(tmp_path / "store"))
    result = run_process("fine-tune", config, "--json", PREFECT_API_URL="http://127.0.0.1:9/api")
    assert result.returncode == 2
    assert "server http://127.0.0.1:9/api cannot be reached" in one_line(result.stdout)["error"]
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fine-tun", "run.yaml"], "Did you mean 'fine-tune'?"),
        (["fine-tune", "run.yaml", "--jsn"], "No such option: --jsn"),
        (["fine-tune"], "Missing argument"),
        (["schema", "fine-tuned"], "expected one of fine-tune, nightly, predict"),
        (["fine-tune", "absent.yaml"], "absent.yaml: settings cannot be read"),
        (["check", "absent.yaml"], "absent.yaml: settings cannot be read"),
        (["predict", "/absent", "rows.csv"], "/absent: no such folder"),
        (["predict", "/absent", "rows.csv", "--output", "out.txt"], "expected an ending of .parquet, .csv, .jsonl"),
        (["predict", "/absent", "rows.csv", "--set", "batch_sise=3"], "did you mean 'batch_size'?"),
    ],
)
def test_what_is_misspelt_or_missing_ends_with_code_2_and_a_hint(arguments: list[str], message: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.output
    line = one_line(run(*arguments, "--json").stdout)
    told = line["error"] if "error" in line else line["faults"][0]
    assert message in told


def test_no_command_shows_the_commands() -> None:
    result = run()
    for command in ("fine-tune", "check", "modules", "predict", "schema", "demo"):
        assert command in result.output


def test_modules_lists_the_table() -> None:
    listed = one_line(run("modules", "--json").stdout)["modules"]
    assert [one["name"] for one in listed] == [one.name for one in known_modules()]
    assert set(listed[0]) == {"name", "kind", "source", "description"}
    shown = run("modules").stdout
    assert "ernie-3.0-nano-zh" in shown


def test_schema_prints_the_json_schema() -> None:
    printed = json.loads(run("schema").stdout)
    assert printed.pop("$schema") == "https://json-schema.org/draft/2020-12/schema"
    assert printed == FineTuneSettings.model_json_schema()
    assert one_line(run("schema", "predict", "--json").stdout)["title"] == "PredictSettings"
