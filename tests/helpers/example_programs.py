"""Programs of `examples`, imported from their files, and run as their readers run them."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

EXAMPLES = Path(__file__).parents[2] / "examples"
PIPELINES = EXAMPLES / "pipelines"


def load_example(name: str) -> ModuleType:
    """A program as a module.

    Args:
        name: its path in `examples`, without `.py`.
    """
    spec = importlib.util.spec_from_file_location(Path(name).name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where contracts and dataclasses look for their own module
    spec.loader.exec_module(module)
    return module


def run_without_prefect(command: Sequence[str | Path], home: Path, timeout: float = 300, **variables: str | Path) -> str:
    """Run a program that must need no Prefect server, and start none; gives all that it printed.

    Args:
        command: to run.
        home: an empty folder for what Prefect would write: a server that Prefect starts keeps its database there.
        timeout: seconds to wait.
        variables: of the environment.

    Raises:
        AssertionError: the program failed, or a server was started.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "PYTEST_"))}
    environment |= {"PREFECT_HOME": str(home), **{name: str(value) for name, value in variables.items()}}
    done = subprocess.run(
        list(map(str, command)), env=environment, capture_output=True, text=True, timeout=timeout, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-6000:]
    assert list(home.rglob("*.db")) == [], f"a Prefect server was started: {list(home.rglob('*'))}"
    return done.stdout + done.stderr
