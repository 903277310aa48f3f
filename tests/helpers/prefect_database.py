"""A Prefect home whose database is there already: its migrations take several seconds of every server's first start."""

import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import prefect

DATABASE = "prefect.db"


def prepare_prefect_home(home: Path) -> Path:
    """Make the folder, with a database of this version of Prefect in it."""
    home.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(_migrated(), home / DATABASE)
    return home


@cache
def _migrated() -> Path:
    """The database that is copied, made once on this machine."""
    folder = Path(tempfile.gettempdir()) / f"hubflow-tests-{os.getuid()}-prefect-{prefect.__version__}"
    if not (folder / DATABASE).exists():
        with tempfile.TemporaryDirectory(dir=folder.parent) as made:
            command = [sys.executable, "-m", "prefect", "server", "database", "upgrade", "-y"]
            usual = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
            subprocess.run(command, env={**usual, "PREFECT_HOME": made}, cwd=made, check=True, capture_output=True, timeout=300)
            folder.mkdir(mode=0o700, exist_ok=True)
            Path(made, DATABASE).replace(folder / DATABASE)
    return folder / DATABASE
