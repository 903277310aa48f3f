"""What the Prefect run around a stage says: its name, and whether a worker started it. Prefect is imported only in a run."""

import glob
import hashlib
import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hubflow.errors import SettingsError
from hubflow.schemas.urls import PathSetting

STARTED_BY_A_RUNNER = ("PREFECT__FLOW_RUN_ID", "PREFECT__RUNTIME__DEPLOYMENT__ID")
"""Variables of the environment that workers and runners set for the process that they start."""
DIGEST_CHARS = 6


def in_run() -> bool:
    """Whether there is a Prefect run around the caller."""
    context = sys.modules.get("prefect.context")  # a run has imported it
    return context is not None and (context.FlowRunContext.get() is not None or context.TaskRunContext.get() is not None)


def run_name() -> str | None:
    """The name by which this run differs from others on one server: the `name` of the flow's settings.

    A prediction has the name of its exported folder, and a flow of the user's own that of the flow. None outside a flow.
    """
    run = _flow_run()
    if run is None:
        return None
    settings = (run.parameters or {}).get("settings")
    given = getattr(settings, "name", None)
    if given is None and (export := getattr(settings, "export", None)) is not None:
        given = Path(str(export)).name
    return str(given or (run.flow.name if run.flow is not None else "") or "") or None


def artifact_key(kind: str) -> str:
    """The key of an artifact of this run: artifacts of one key are one history, and keys are of the whole server.

    Keys may hold lower-case letters, digits and dashes. A name that does not survive that is told apart by a few characters
    of its hash.
    """
    name = run_name()
    if name is None:
        return kind
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    if slug != name:
        digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:DIGEST_CHARS]
        slug = f"{slug}-{digest}".strip("-")
    return f"{slug}-{kind}"


def is_started_by_a_worker() -> bool:
    """Whether a worker, or another runner of Prefect, started the process of this run for a deployment."""
    if any(os.environ.get(name) for name in STARTED_BY_A_RUNNER):
        return True
    run = _flow_run()
    return run is not None and getattr(run.flow_run, "deployment_id", None) is not None


def require_lasting(paths: Iterable[PathSetting]) -> None:
    """Refuse paths that a run which a worker started would lose, or cannot find; relative ones of other runs are fine.

    Raises:
        SettingsError: naming each of them.
    """
    if not is_started_by_a_worker():
        return
    relative = [path for path in paths if path.is_relative]
    lost = [path for path in relative if path.role.is_written]
    missing = [path for path in relative if not path.role.is_written and _is_missing(path)]
    faults = [f"{path.name}: what is written to the relative path {path.value!r} is lost when the run ends" for path in lost]
    faults += [f"{path.name}: there is no {path.value!r} in the working folder of the run" for path in missing]
    if faults:
        raise SettingsError(
            "\n  - ".join(["relative paths in a run of a deployment:", *faults])
            + f"\nA worker runs each flow in a working folder of its own (here {os.getcwd()}), which is removed afterwards. "
            "Give absolute paths, paths that begin with ~, or URLs."
        )


def _is_missing(path: PathSetting) -> bool:
    """Whether an input is neither a file nor a glob that matches."""
    is_name = path.role.may_be_name and re.search(r"[/\\]", path.value) is None
    return not (is_name or os.path.exists(path.value) or glob.glob(path.value, recursive=True))


def _flow_run() -> Any:
    context = sys.modules.get("prefect.context")
    return None if context is None else context.FlowRunContext.get()
