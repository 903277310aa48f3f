"""Stages as Prefect tasks: one artifact, one log line, no cache but the store's own, one run at a time on a GPU."""

import errno
import functools
import inspect
import logging
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from prefect import Task, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas import State
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.concurrency.sync import concurrency
from prefect.context import TaskRunContext
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.logging import get_run_logger
from prefect.states import Completed
from pydantic import BaseModel
from rich.markup import escape

from hubflow.console import say
from hubflow.errors import ConcurrencyError, GivenUpError, HubflowError, OpenFilesError, StoppedError, with_remedy
from hubflow.orchestration.assets import note_asset
from hubflow.orchestration.events import Event, emit
from hubflow.orchestration.run_context import artifact_key, in_run, note_stage, require_lasting, run_name, runs_alone
from hubflow.runtime.memory import low_memory_explained
from hubflow.schemas.deployment import ConcurrencySettings
from hubflow.schemas.urls import PathRole, PathSetting, as_text, is_url, paths_of
from hubflow.store.manifest import full_disk_explained
from hubflow.store.store import noted_lookups
from hubflow.text import markdown_block, markdown_text, printable


@contextmanager
def slot(settings: ConcurrencySettings, device: str) -> Iterator[None]:
    """Hold a slot while the block runs; wait for it where others hold them all.

    The slot is a lease that this process renews: when it is killed, the server gives the slot back after `lease_seconds`.

    Raises:
        ConcurrencyError: when the limit is missing and is not to be made.
    """
    if settings.when == "never" or (settings.when == "gpu" and not _is_gpu(device)):
        yield
        return
    require_limit(settings)
    say(f"[dim]waiting for a slot of {escape(repr(settings.name))} …[/dim]")
    with concurrency(settings.name, strict=True, lease_duration=settings.lease_seconds):
        yield


def require_limit(settings: ConcurrencySettings) -> None:
    """Make the limit where it is missing; one that is there stays as it is.

    Raises:
        ConcurrencyError: when it is missing and is not to be made.
    """
    with get_client(sync_client=True) as client:
        try:
            client.read_global_concurrency_limit_by_name(settings.name)
        except ObjectNotFound:
            if not settings.create:
                raise ConcurrencyError(
                    f"concurrency: Prefect's server has no concurrency limit {settings.name!r}; make it with "
                    f"`prefect gcl create {settings.name} --limit {settings.slots}`, or set concurrency.create"
                ) from None
            with suppress(ObjectAlreadyExists):  # another run has just made it
                client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=settings.name, limit=settings.slots))


def _is_gpu(device: str) -> bool:
    if device == "cpu":
        return False
    from hubflow.runtime.paddle_import import paddle, place_of

    return isinstance(place_of(device.partition(",")[0]), paddle.CUDAPlace)


MEMORY_REMEDY = (
    "What was made before is kept, and the same run goes on from it: lower batch sizes and the limits of hubflow's settings, "
    "give the process more (its cgroup's limit, ulimit -v)"
)
CACHED = "Cached from store"
"""Name of the state of a task whose result the store had."""
P = ParamSpec("P")
R = TypeVar("R")
Retry = Callable[[Any, Any, Any], bool]


Events = Callable[[Any], Event | None]


class _StageTask(Task[Any, Any]):
    """A stage's task. Called in a flow it gives the stage's result, also where the task's state has a name of its own."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Run the stage as Prefect runs a task, or as a plain function where that is asked for (`without_prefect`)."""
        if runs_alone():
            return self.fn(*args, **options)
        found: Any = super().__call__(*args, **options)
        return found if options.get("return_state") or not isinstance(found, State) else found.result()

    def with_options(self, *args: Any, **options: Any) -> Task[Any, Any]:
        """The same stage with other options of a Prefect task."""
        changed = super().with_options(*args, **options)
        changed.__class__ = _StageTask
        return changed


def stage(
    describe: Callable[[R], str],
    *,
    label: str = "",
    retry_on: tuple[type[Exception], ...] = (),
    event: Events | None = None,
) -> Callable[[Callable[P, R]], Task[P, R]]:
    """Decorator: a Prefect task under the function's own name, whose `.fn` is the plain function outside a run.

    Prefect's cache is off: the store finds what was made from the same content, and verifies it, with or without Prefect.
    There are no tags: before a tagged task begins, Prefect asks its server for the tags' concurrency limits, and often 2 s went
    by. Where such a limit is wanted, `with_options(tags=...)` gives them.

    Args:
        describe: of a result, published as the run's artifact: a line of text, and Markdown after it.
        label: what a task's run is called, before the name of the run's settings; the function's name by default.
        retry_on: errors that can pass on a retry; there are none for a fault in data or settings.
        event: of a result, or of a HubflowError that the stage raised, the event that is emitted; None where there is none.
    """

    def decorate(function: Callable[P, R]) -> Task[P, R]:
        @functools.wraps(function)
        def run(*args: P.args, **kwargs: P.kwargs) -> R:
            if not (in_run() or runs_alone()):
                return function(*args, **kwargs)
            started, was_reused = time.perf_counter(), False
            try:
                result, was_reused = _run_stage(function, describe, event, *args, **kwargs)
            finally:
                note_stage(function.__name__, time.perf_counter() - started, was_reused)
            context = TaskRunContext.get()
            is_own = context is not None and context.task.fn is run  # not where a task of the user's calls `.fn`
            if was_reused and is_own:
                return Completed(name=CACHED, message="the store had the result", data=result)  # type: ignore[return-value]
            return result

        def named() -> str:
            return " ".join(filter(None, [label or function.__name__.replace("_", " "), run_name()]))

        made = task(
            name=function.__name__,
            task_run_name=named,
            description=function.__doc__,
            cache_policy=NO_CACHE,
            persist_result=False,
            retries=3 if retry_on else 0,
            retry_delay_seconds=[2, 10, 60] if retry_on else 0,
            retry_condition_fn=_passing(retry_on) if retry_on else None,
        )(run)
        made.__class__ = _StageTask
        return made

    return decorate


def _run_stage(
    function: Callable[P, R], describe: Callable[[R], str], event: Events | None, *args: P.args, **kwargs: P.kwargs
) -> tuple[R, bool]:
    """Call a stage within a run, which shows how it goes; in a Prefect run by its log, an artifact and an event too.

    Returns:
        The result, and whether it was taken from the store.
    """
    name, started = function.__name__, time.perf_counter()
    say(f"[bold]{name}[/bold] …")
    try:
        require_lasting(_paths(function, args, kwargs))
        disk, memory = full_disk_explained(_store(function, args, kwargs)), low_memory_explained(name, MEMORY_REMEDY)
        with _forwarded_logs(), noted_lookups() as found, disk, memory, _open_files_explained(name):
            result = function(*args, **kwargs)
    except (StoppedError, GivenUpError):
        raise
    except HubflowError as error:
        if in_run():
            failed = artifact_key(_key(name, "failed"))
            create_markdown_artifact(markdown_block(str(error)), key=failed, description=f"{name} failed")
        emit(event and event(error))
        raise
    emit(event and event(result))
    note_asset(result, _address(function, args, kwargs), getattr(result, "path", None) in found)
    description, path = describe(result), getattr(result, "path", None)
    summary, *more = description.splitlines()
    summary = printable(summary)
    reused = f"taken from the store, {path}" if path in found else ""
    summary = f"{summary} ({reused})" if reused else summary
    page = "\n".join([markdown_text(summary), *more])
    if in_run():
        create_markdown_artifact(page, key=artifact_key(_key(name)), description=(function.__doc__ or name).splitlines()[0])
    seconds = time.perf_counter() - started
    if in_run():
        get_run_logger().info("%s finished in %.1f s: %s", name, seconds, summary)
    say(f"[bold]{name}[/bold] {seconds:.1f} s  [dim]{escape(summary)}[/dim]")
    return result, bool(reused)


@contextmanager
def _open_files_explained(name: str) -> Iterator[None]:
    """Raise a lack of open files as an error that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.EMFILE, errno.ENFILE):
            raise
        raise OpenFilesError(f"{name}: {with_remedy(error)}") from error


class _Forwarder(logging.Handler):
    """Hands what hubflow's modules log to the run's log, if any, where the Prefect UI shows it, and to the terminal."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self._run_logger = get_run_logger() if in_run() else None

    def emit(self, record: logging.LogRecord) -> None:
        """Pass one record of this run on; others may be under way in other threads."""
        if _forwarder.get() is not self:
            return
        text = printable(record.getMessage())
        if self._run_logger is not None:
            self._run_logger.log(record.levelno, text)
        say(f"  {escape(text)}")


_handlers_changing = threading.Lock()
_forwarder: ContextVar[_Forwarder | None] = ContextVar("_forwarder", default=None)


@contextmanager
def _forwarded_logs() -> Iterator[None]:
    logger, handler = logging.getLogger("hubflow"), _Forwarder()
    logger.setLevel(logging.INFO)
    token = _forwarder.set(handler)
    with _handlers_changing:
        logger.addHandler(handler)
        logger.propagate = False  # the run's log is shown where the root's is
    try:
        yield
    finally:
        _forwarder.reset(token)
        with _handlers_changing:
            logger.removeHandler(handler)
            logger.propagate = not any(isinstance(other, _Forwarder) for other in logger.handlers)  # of runs beside this one


def _store(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Path:
    """The folder of a stage's store, or the one for temporary files where it has none on this machine."""
    address = _address(function, args, kwargs)
    return Path(address).expanduser() if address and not is_url(address) else Path(tempfile.gettempdir())


def _address(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """The store that a stage is given; empty where it is given none."""
    return str(inspect.signature(function).bind(*args, **kwargs).arguments.get("store", ""))


def _paths(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[PathSetting]:
    """The paths that a stage is given: its store, and those in settings."""
    for name, value in inspect.signature(function).bind(*args, **kwargs).arguments.items():
        if name == "store" and isinstance(as_text(value), str):
            yield PathSetting(name, as_text(value), PathRole(is_written=True))
        elif isinstance(value, BaseModel):
            yield from paths_of(value)


def _passing(kinds: tuple[type[Exception], ...]) -> Retry:
    def can_pass(_task: Any, _run: Any, state: Any) -> bool:
        error = state.result(raise_on_failure=False)
        return isinstance(error, kinds)

    return can_pass


def _key(*parts: str) -> str:
    return "-".join(parts).replace("_", "-")


class Throttle:
    """Says at most once every `seconds` that something is due."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._last = seconds, time.monotonic()

    def is_due(self) -> bool:
        """Whether enough time has passed since it was last due."""
        now = time.monotonic()
        if now - self._last < self._seconds:
            return False
        self._last = now
        return True
