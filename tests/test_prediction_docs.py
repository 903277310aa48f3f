"""docs/how-to/predict.md is true: its Python runs, its command runs, its settings are settings."""

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from runs import Run, write_reviews

from hubflow.schemas.settings import PredictSettings

pytestmark = pytest.mark.slow

TEXT = (Path(__file__).parents[1] / "docs" / "how-to" / "predict.md").read_text(encoding="utf-8")


def block(kind: str) -> str:
    (found,) = re.findall(rf"```{kind}\n(.*?)```", TEXT, re.DOTALL)
    return str(found)


def test_the_command_labels_every_file_of_the_glob(text_run: Run, tmp_path: Path) -> None:
    for name in ("reviews-a.csv", "reviews-b.csv"):
        data = write_reviews(tmp_path / name, 4, ",")
        data.write_text(data.read_text().replace("text", "body", 1))
    command = shlex.split(block("bash").replace("hubflow-store/exports/KEY", str(text_run.export_folder)))
    assert command[:3] == ["uv", "run", "hubflow"]
    hubflow = str(Path(sys.executable).with_name("hubflow"))
    done = subprocess.run([hubflow, *command[3:]], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    labelled = pd.read_parquet(tmp_path / "labelled.parquet")
    assert labelled["file"].tolist() == ["reviews-a.csv"] * 4 + ["reviews-b.csv"] * 4
    columns = re.findall(r"^\| `(\w+)`", TEXT, re.MULTILINE)
    assert {"file", "row", "predicted"} <= set(columns) & set(labelled)


def test_three_lines_of_python_give_predictions(text_run: Run) -> None:
    code = block("python").replace("hubflow-store/exports/…", str(text_run.export_folder))
    lines = [line for line in code.splitlines() if line]
    assert len(lines) == 3
    namespace: dict[str, Any] = {}
    exec("\n".join([*lines[:-1], f"found = {lines[-1]}"]), namespace)  # noqa: S102
    assert [one.label in ("0", "1") for one in namespace["found"]] == [True, True]


def test_the_settings_of_every_runner_are_settings() -> None:
    lines = block("yaml").splitlines()
    runners = [line.removeprefix("# ") for line in lines if "runner:" in line]
    common = "\n".join(line for line in lines if "runner:" not in line)
    kinds = [PredictSettings.model_validate(yaml.safe_load(f"{common}\n{runner}")).runner for runner in runners]
    assert [(one.kind, one.address) for one in kinds] == [("dask", None), ("dask", "tcp://scheduler:8786"), ("ray", None)]
