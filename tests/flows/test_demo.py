"""The demo, as a newcomer runs it: stages as they go, a table in which the pretrained module wins, and where everything is."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hubflow.store.manifest import verify_folder


@pytest.mark.soak  # `.ci/run` starts the demo of the installed wheel too
def test_the_demo_shows_its_stages_and_the_pretrained_module_wins(prefect_server: str, tmp_path: Path) -> None:
    command = [str(Path(sys.executable).with_name("hubflow")), "demo", "--store", str(tmp_path / "store")]
    environment = {**os.environ, "PREFECT_API_URL": prefect_server, "COLUMNS": "200"}
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environment)
    assert ended.returncode == 0, ended.stderr
    for stage in (
        "load_dataset",
        "load_module",
        "encode_dataset",
        "build_head",
        "fine_tune",
        "evaluate",
        "export_inference_program",
    ):
        assert len(re.findall(rf"^{stage} \d+\.\d s", ended.stderr, re.MULTILINE)) == 2, stage
    assert re.search(r"training .* 24/24", ended.stderr)
    rows = {
        name: float(value) for name, value in re.findall(r"^ *(fine-tuned|from scratch) +(\d\.\d+)", ended.stdout, re.MULTILINE)
    }
    assert rows["fine-tuned"] > rows["from scratch"] + 0.02
    report, export = (Path(re.search(rf"^{name} +(.+)$", ended.stdout, re.MULTILINE)[1]) for name in ("report", "export"))
    assert "Worst mistakes" in report.read_text()
    assert (
        verify_folder(export).facts["metrics"]["test"]["accuracy"]
        == json.loads(report.with_name("run.json").read_text())["metrics"]["test"]["accuracy"]
    )
