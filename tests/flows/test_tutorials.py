"""The tutorials are true: a reader who writes their files and gives their commands, in their order, comes to their end."""

import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from documented_pages import follow, steps_of
from prefect_processes import World, world

TUTORIALS = Path(__file__).parents[2] / "docs" / "tutorials"
FOLDER = "reviews-project"

pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(
        not Path("/proc/self/environ").exists() or shutil.which("bash") is None, reason="processes are found by /proc"
    ),
]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """An empty folder in a home of its own, where the commands of this environment are found, as in an activated one."""
    monkeypatch.setenv("UV", str(Path(sys.executable).with_name("uv")))  # whose folder `world` puts first on the path
    folder = tmp_path / FOLDER
    folder.mkdir()
    (tmp_path / "running.log").touch()
    with world(tmp_path, folder) as found:
        yield found


def test_the_first_fine_tune_comes_to_labelled_images(here: World) -> None:
    printed = follow(steps_of(TUTORIALS / "first-fine-tune.md"), here)
    assert "digits.yaml: sound" in printed
    assert "reused" in printed
    labelled = pd.read_csv(here.project / "labelled.csv")
    assert len(labelled) == 20
    assert re.search(r"^[5-9] [01]\.\d+$", printed, re.MULTILINE)


def test_own_data_is_refused_then_quarantined_then_trained_on(here: World) -> None:
    printed = follow(steps_of(TUTORIALS / "your-own-data.md"), here)
    assert "row 242" in printed
    assert "! duplicates_within_split" in printed or "! same_text_across_splits" in printed
    assert "cost" in printed
    labelled = pd.read_csv(here.project / "labelled.csv")
    assert set(labelled["predicted"]) <= {"good", "bad"}


def test_a_file_becomes_a_project_that_is_deployed(here: World) -> None:
    printed = follow(steps_of(TUTORIALS / "from-data-to-a-deployment.md"), here)
    assert "1 passed" in printed
    assert "Flow run finished successfully in 'Completed'" in printed
    assert "price: Series[float] = pa.Field(ge=0.0, le=29.75, coerce=True)" in printed
    assert list((here.home / "orders-store" / "exports").iterdir())


def test_a_flow_of_ones_own_is_deployed_and_runs(here: World) -> None:
    printed = follow(steps_of(TUTORIALS / "your-own-project.md"), here)
    assert "exported local-store/exports/" in printed
    assert "Flow run finished successfully in 'Completed'" in printed
    assert list((here.home / "reviews-store" / "exports").iterdir())
