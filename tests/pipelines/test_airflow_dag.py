"""An Airflow DAG whose tasks call stages in the environment of hubflow, run by a real Airflow in an environment of its own."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from example_programs import EXAMPLES, PIPELINES, run_without_prefect
from reviews import review_frame

from hubflow.schemas import ExportRef
from hubflow.store.store import Store
from hubflow.testing.modules import TinyModule

pytestmark = [pytest.mark.soak, pytest.mark.integration]

AIRFLOW = "apache-airflow==3.3.2"


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Airflow's program, in a virtual environment that hubflow is not in."""
    folder = tmp_path_factory.mktemp("airflow") / "venv"
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert uv is not None, "uv is not here; pip install uv"
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, folder], check=True)
    settings = tomllib.loads((EXAMPLES.parent / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["uv"]
    of_day = ["--exclude-newer", settings["exclude-newer"]]  # the packages are those that the project is locked to, or older
    subprocess.run([uv, "pip", "install", "--quiet", "--python", folder, *of_day, AIRFLOW], check=True, timeout=600)
    return folder / "bin" / "airflow"


def test_a_dag_fine_tunes_with_references_as_json_between_its_tasks(
    airflow: Path, tmp_path: Path, hubflow_store: str, tiny_text_module: TinyModule
) -> None:
    (tmp_path / "dags").mkdir()
    shutil.copy(PIPELINES / "airflow_dag.py", tmp_path / "dags")
    review_frame().to_csv(tmp_path / "reviews.csv", index=False)
    variables = {
        "AIRFLOW_HOME": str(tmp_path / "home"),
        "AIRFLOW__CORE__DAGS_FOLDER": str(tmp_path / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "HUBFLOW_PYTHON": sys.executable,
    }
    given = {"reviews": str(tmp_path / "reviews.csv"), "module": tiny_text_module.name, "store": hubflow_store}
    run_without_prefect([airflow, "db", "migrate"], tmp_path / "prefect", **variables)
    test = [airflow, "dags", "test", "fine_tune_reviews", "--conf", json.dumps(given)]
    run_without_prefect(test, tmp_path / "prefect", **variables)
    with sqlite3.connect(tmp_path / "home" / "airflow.db") as connection:
        sent = dict(connection.execute("SELECT task_id, value FROM xcom WHERE key = 'return_value'"))
    assert set(sent) == {"ingest", "train", "export"}
    export = ExportRef.model_validate(json.loads(sent["export"]))
    assert Store(hubflow_store).open(export).sha256 == export.sha256
    assert export.metrics["test"]["accuracy"] > 0.5
