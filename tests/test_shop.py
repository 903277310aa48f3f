"""The example project of a data engineer: installed by pip beside hubflow, its own tests pass."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SHOP = Path(__file__).parents[1] / "examples" / "shop"
LINES = 40

pytestmark = [pytest.mark.soak, pytest.mark.integration]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project installed by pip into a folder of its own, from a copy: nothing is built in the repository."""
    folder = tmp_path_factory.mktemp("shop")
    shutil.copytree(SHOP, folder / "project", ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__"))
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    pip = [uv, "pip"] if uv else [sys.executable, "-m", "pip"]
    options = ["--no-deps", "--no-build-isolation", "--target", str(folder / "packages")]
    subprocess.run([*pip, "install", "--quiet", *options, str(folder / "project")], check=True, timeout=120)
    return folder


def run(installed: Path, *command: str) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        [sys.executable, *command],
        cwd=installed / "project" / "tests",
        env={**environment, "PYTHONPATH": str(installed / "packages")},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_its_tests_pass(installed: Path) -> None:
    assert "3 passed" in run(
        installed, "-m", "pytest", "-c", "../pyproject.toml", "--rootdir", "..", ".", "-p", "no:cacheprovider"
    )


def test_its_packages_are_its_own_beside_those_of_hubflow(installed: Path) -> None:
    code = "import flows.reviews, schemas.reviews, hubflow.flows, hubflow.schemas; print(flows.reviews.__file__)"
    assert str(installed / "packages") in run(installed, "-c", code)


def test_its_tests_are_short() -> None:
    assert len((SHOP / "tests" / "test_reviews.py").read_text(encoding="utf-8").splitlines()) < LINES
