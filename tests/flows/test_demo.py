"""The demo, as a newcomer runs it: stages as they go, a table in which the pretrained module wins, and where everything is."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from hubflow.store.manifest import verify_folder


def recorded(server: str) -> int:
    """How many runs the flow fine-tune has had on a server."""
    with httpx.Client(base_url=server) as client:
        asked = {"flows": {"name": {"any_": ["fine-tune"]}}}
        return int(client.post("/flow_runs/count", json=asked).raise_for_status().json())


@pytest.mark.soak  # `.ci/run` starts the demo of the installed wheel too
@pytest.mark.parametrize("has_server", [True, False])
def test_the_demo_shows_its_stages_and_the_pretrained_module_wins(
    has_server: bool, prefect_server: str, tmp_path: Path
) -> None:
    command = [str(Path(sys.executable).with_name("hubflow")), "demo", "--store", str(tmp_path / "store")]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")} | {"COLUMNS": "200"}
    if has_server:
        environment["PREFECT_API_URL"] = prefect_server
    else:  # then Prefect is not asked, and needs no folder
        (tmp_path / "file").touch()
        environment["HOME"] = str(tmp_path / "file" / "home")
        environment["HUBFLOW_CACHE"] = str(tmp_path / "cache")
    before = recorded(prefect_server)
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environment)
    assert ended.returncode == 0, ended.stderr
    assert recorded(prefect_server) == before + (2 if has_server else 0)
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
