"""The Prefect run around a stage, or none, and the store that its settings name with credentials of a block."""

import datetime
import glob
import hashlib
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hubflow.blocks import HubflowStore, load_block
from hubflow.errors import SettingsError
from hubflow.inference.export import require_onnx
from hubflow.schemas.settings import FineTuneSettings
from hubflow.schemas.urls import PathSetting, absolute_address, is_under, is_url, paths_of, url_fault
from hubflow.store.remote import use_options
from hubflow.store.signing import require_signing
from hubflow.store.store import Store
from hubflow.training.trackers.trackers import require_places

STARTED_BY_A_RUNNER = ("PREFECT__FLOW_RUN_ID", "PREFECT__RUNTIME__DEPLOYMENT__ID")
"""Variables of the environment that workers and runners set for the process that they start."""
DIGEST_CHARS = 6


def in_run() -> bool:
    """Whether there is a Prefect run around the caller."""
    context = sys.modules.get("prefect.context")  # a run has imported it
    return context is not None and (context.FlowRunContext.get() is not None or context.TaskRunContext.get() is not None)


_alone: ContextVar[bool] = ContextVar("_alone", default=False)


@contextmanager
def without_prefect() -> Iterator[None]:
    """Have hubflow's flows and stages that are called in the block run as plain functions: no server records them.

    They say how they go, as in a run. What Prefect does beside recording is left out: a stage is not tried again after an error
    that can pass.
    """
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


def runs_alone() -> bool:
    """Whether the caller is in a block of `without_prefect`."""
    return _alone.get()


def run_name() -> str | None:
    """The name by which this run differs from others on one server: the `name` of the flow's settings.

    A prediction has the name of its exported folder, and a flow of the user's own that of the flow. None outside a flow.
    """
    run = _flow_run()
    if run is None:
        opened = _open_run.get()
        return None if opened is None else opened.name
    settings = (run.parameters or {}).get("settings")
    given = getattr(settings, "name", None)
    if given is None and (export := getattr(settings, "export", None)) is not None:
        given = Path(str(export)).name
    return str(given or (run.flow.name if run.flow is not None else "") or "") or None


def dated_run_name() -> str:
    """What a run of one of hubflow's flows is called: the name of its settings, and the day it was to start on, in UTC."""
    run = _flow_run()
    flow_run = None if run is None else run.flow_run
    planned = getattr(flow_run, "expected_start_time", None) or datetime.datetime.now(datetime.UTC)
    return f"{run_name()}-{planned.astimezone(datetime.UTC):%Y-%m-%d}"


def tag_run(*tags: str) -> None:
    """Add tags to the flow run around the caller, by which Prefect's pages filter runs; tasks have none (see `stage`)."""
    run = _flow_run()
    flow_run = None if run is None else run.flow_run
    if flow_run is None:
        return
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        client.update_flow_run(flow_run.id, tags=sorted({*flow_run.tags, "hubflow", *tags}))


def artifact_key(kind: str) -> str:
    """The key of an artifact of this run: artifacts of one key are one history, and keys are of the whole server.

    Keys may hold lower-case letters, digits and dashes. A name that does not survive that is made unique by a few characters
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


def open_store(store: str, block: str | None = None) -> str:
    """The store's address in full, once this process can write there.

    Args:
        store: a folder, or a URL.
        block: name of a `HubflowStore` block for the URL.

    Raises:
        SettingsError: when there is no such block, it is for another URL, or the store is a folder, which needs none.
        StoreError: when the store cannot be written.
    """
    use_block(store, block)
    Store(store).require_writable()
    return absolute_address(store)


def use_block(store: str, block: str | None) -> None:
    """Have this process open the store at a URL with the options in a block; without a block nothing is done.

    Raises:
        SettingsError: as `open_store` does.
    """
    if block is None:
        return
    if not is_url(store):
        raise SettingsError(f"store_block is {block!r}, but {store} is a folder, which needs no credentials; leave it out")
    fault = url_fault(store)
    if fault is not None:
        raise SettingsError(f"store: {fault}")
    credentials = load_block(HubflowStore, block, "store_block")
    if not is_under(store, credentials.url):
        raise SettingsError(
            f"store_block: {block!r} is for {credentials.url} and what is below it, the store is {store}; name the block that "
            "is for this store, or choose a store there"
        )
    options: dict[str, Any] = credentials.options.get_secret_value()
    use_options(absolute_address(store), options)


@dataclass(frozen=True)
class Run:
    """What the stages of a flow run share, and what is known of those that have ended.

    Attributes:
        name: of the settings.
        store: absolute path, or URL, of the store.
        reuse: whether stages take what the store already holds for the same content and settings.
        device: that programs run on, as the settings have it.
        seconds: how long each stage took, by its name.
        reused: names of the stages that took their result from the store.
    """

    name: str
    store: str
    reuse: bool
    device: str
    seconds: dict[str, float] = field(default_factory=dict)
    reused: list[str] = field(default_factory=list)

    def note(self, stage: str, seconds: float, was_reused: bool) -> None:
        """Keep how long a stage took, and whether the store had its result."""
        self.seconds[stage] = round(seconds, 3)
        if was_reused and stage not in self.reused:
            self.reused.append(stage)


_open_run: ContextVar[Run | None] = ContextVar("_open_run", default=None)


@contextmanager
def open_run(settings: FineTuneSettings) -> Iterator[Run]:
    """Check what a whole run needs, before anything is read, and open its store; the stages in the block are noted.

    Args:
        settings: of the run.

    Yields:
        What its stages share.

    Raises:
        SettingsError: when the task type does not fit, or a path would be lost when the run ends.
        StoreError: when the store cannot be opened.
        SignatureError: when exports must be signed, and this machine cannot sign them.
        ExportError: when ONNX is asked for and its packages are not installed.
    """
    settings.require_fitting_task()
    require_lasting(paths_of(settings))
    require_signing()
    require_places(settings.train.tracking)
    if settings.export.onnx:
        require_onnx()
    tag_run(settings.name, settings.task)
    run = Run(settings.name, open_store(settings.store, settings.store_block), settings.reuse, settings.device)
    token = _open_run.set(run)
    try:
        yield run
    finally:
        _open_run.reset(token)


def note_stage(stage: str, seconds: float, was_reused: bool) -> None:
    """Tell the run that is open around a stage how it went."""
    if (run := _open_run.get()) is not None:
        run.note(stage, seconds, was_reused)
