"""The page on serve, deploy, from_source and pull steps is true: its project is deployed in each of these ways, and runs."""

import asyncio
import importlib.util
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from documented_pages import follow, steps_of
from prefect.deployments.steps import pip_install_requirements
from prefect_processes import World, world

PROJECT = Path(__file__).parents[2]
PAGE = PROJECT / "docs" / "how-to" / "serve-and-deploy.md"

pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(
        not Path("/proc/self/environ").exists() or shutil.which("bash") is None, reason="processes are found by /proc"
    ),
    pytest.mark.skipif(shutil.which("git") is None, reason="there is no git"),
]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The page's project, with a server and a worker."""
    home = tmp_path_factory.mktemp("home")
    (home / "hubflow").symlink_to(PROJECT)
    folder = home / "digits-project"
    folder.mkdir()
    (home / "running.log").touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UV", str(environment_of_its_own(home / "venv") / "uv"))  # whose folder `world` puts first on the path
        with world(home, folder) as found:
            follow(steps_of(PAGE, "A project"), found)
            yield found


def environment_of_its_own(folder: Path) -> Path:
    """A virtual environment with pip and the packages of this one; gives the folder of its commands."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True, timeout=120)
    (packages,) = folder.glob("lib/python*/site-packages")
    ours = sysconfig.get_path("purelib")
    (packages / "ours.pth").write_text(f"import site; site.addsitedir({ours!r})\n", encoding="utf-8")
    for name in ("prefect", "hubflow"):
        script = Path(sys.executable).with_name(name).read_text(encoding="utf-8")
        assert sys.executable in script
        command = folder / "bin" / name
        command.write_text(script.replace(sys.executable, str(folder / "bin" / "python")), encoding="utf-8")
        command.chmod(0o755)
    return folder / "bin"


def runs_of(here: World, deployment: str) -> list[dict[str, Any]]:
    """Runs of a deployment, the first first."""
    found = here.api(f"deployments/name/{deployment}")["id"]
    asked = {"deployments": {"id": {"any_": [found]}}, "sort": "EXPECTED_START_TIME_ASC"}
    runs: list[dict[str, Any]] = here.api("flow_runs/filter", asked)
    return [run for run in runs if run["state_type"] != "SCHEDULED"]


def test_flows_are_served_and_a_relative_store_is_refused(here: World) -> None:
    follow(steps_of(PAGE, "Serve a flow"), here)
    assert [run["state_type"] for run in runs_of(here, "fine-tune/served")] == ["COMPLETED"]
    sound, refused = runs_of(here, "digits/served")
    assert sound["state_type"] == "COMPLETED"
    assert "relative paths in a run of a deployment" in refused["state"]["message"]
    assert list((here.home / "hubflow-store" / "exports").iterdir())
    assert [path.parent for path in here.home.rglob("digits-store")] == [here.home]  # not where the refused run would have it


def test_an_installed_flow_is_deployed_by_its_module_path(here: World) -> None:
    follow(steps_of(PAGE, "Deploy what is installed"), here)
    deployment = here.api("deployments/name/fine-tune/from-python")
    assert (deployment["entrypoint"], deployment["pull_steps"]) == ("hubflow.flows.fine_tune.fine_tune", [])
    assert deployment["job_variables"] == {"cuda_visible_devices": "0"}
    (run,) = runs_of(here, "fine-tune/from-python")
    assert (run["state_type"], run["job_variables"]) == ("COMPLETED", {"cuda_visible_devices": "0,1"})


def test_an_image_is_deployed_to_a_docker_pool(here: World) -> None:
    follow(steps_of(PAGE, "Deploy an image"), here)
    deployment = here.api("deployments/name/fine-tune/in-docker")
    assert deployment["entrypoint"] == "hubflow.flows.fine_tune.fine_tune"
    assert deployment["job_variables"] == {"image": "hubflow:cpu", "mem_limit": "8g"}


def test_a_flow_is_deployed_from_git_and_a_contract_of_the_project_from_its_folder(here: World) -> None:
    follow(steps_of(PAGE, "Deploy from a folder or from git"), here)
    assert [run["state_type"] for run in runs_of(here, "digits/from-git")] == ["COMPLETED"]
    (run,) = runs_of(here, "fine-tune/own-contract")
    assert run["state_type"] == "COMPLETED"
    assert run["parameters"]["settings"]["data"]["contract"] == "schemas.digits:HighDigits"


def test_pull_steps_bring_the_newest_code_and_install_what_it_needs(here: World) -> None:
    follow(steps_of(PAGE, "Pull steps"), here)
    make_wheel(here.project / "greeting-1.0-py3-none-any.whl")
    (here.project / "requirements.txt").write_text("./greeting-1.0-py3-none-any.whl\n", encoding="utf-8")
    flow = here.project / "flows" / "check.py"
    flow.write_text(f"import greeting\n\n{flow.read_text(encoding='utf-8')}", encoding="utf-8")
    here.run(
        "git add . && git -c user.name=Ada -c user.email=ada@example.com commit --quiet --message 'Greet'\n"
        "git push --quiet ~/digits.git main\n"
        "prefect deployment run digits/cloned --watch"
    )
    assert [run["state_type"] for run in runs_of(here, "digits/cloned")] == ["COMPLETED", "COMPLETED"]
    assert [run["state_type"] for run in runs_of(here, "digits/in-folder")] == ["COMPLETED"]
    assert len(list((here.home / "venv").glob("lib/python*/site-packages/greeting.py"))) == 1


@pytest.mark.skipif(importlib.util.find_spec("pip") is not None, reason="this environment has pip")
def test_requirements_cannot_be_installed_in_an_environment_without_pip(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").touch()
    with pytest.raises(RuntimeError, match="No module named pip"):
        asyncio.run(pip_install_requirements(str(tmp_path)))


def make_wheel(path: Path) -> None:
    """A wheel with one module, `greeting`."""
    about = "greeting-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("greeting.py", "")
        wheel.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: greeting\nVersion: 1.0\n")
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{about}/RECORD", "")
