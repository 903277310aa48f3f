"""What every command shares: the app, its options, a Prefect that is settled before its import, what goes to stdout.

Imports Paddle and Prefect only when a command runs.
"""

import codecs
import ctypes
import gc
import importlib
import io
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, chdir, contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from hubflow.console import Terminal, say, show_progress
from hubflow.errors import HubflowError, ServerError
from hubflow.text import printable, printable_json

FAULT = 2


class Commands(TyperGroup):
    """Commands that tell a fault as a message, with exit code 2; with `--json` also as one line `{"error": …}` on stdout."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Remember whether the command was asked for JSON: when its options are wrong, nothing else tells."""
        ctx.meta["json"] = "--json" in args
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run a command; an error of hubflow's own becomes its message, any other error passes on."""
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort):
            raise
        except HubflowError as error:
            typer.echo(f"hubflow: {error}", err=True)
            _print_error(ctx, str(error))
            raise typer.Exit(FAULT) from error
        except Exception as error:
            format_message = getattr(error, "format_message", None)  # of an option or argument that is wrong
            _print_error(ctx, format_message() if format_message else f"{type(error).__name__}: {error}")
            raise


app = typer.Typer(
    cls=Commands,
    help="Fine-tune pretrained Paddle modules as Prefect flows.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
out = Terminal(highlight=False, markup=False, emoji=False)

Json = Annotated[bool, typer.Option("--json", help="Print one machine-readable line at the end, and nothing else to stdout.")]
Override = Annotated[list[str] | None, typer.Option("--set", help="Override a setting, for example train.epochs=2.")]
Verbose = Annotated[bool, typer.Option("--verbose", help="Show Prefect's log.")]
Config = Annotated[Path, typer.Argument(help="Settings file, YAML or JSON.")]


NEEDED_AT_ONCE = ("hubflow.flows.fine_tune",)
"""What a flow imports, beside what its worker processes do."""


@contextmanager
def uncollected() -> Iterator[None]:
    """Make many objects that all stay, as imports do, without Python's looking through them for garbage, now or later."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@contextmanager
def prefect_settled(verbose: bool, records: bool = True) -> Iterator[None]:
    """Settle what Prefect reads when it is imported, without overruling the user; show progress.

    Args:
        verbose: show Prefect's log.
        records: whether a temporary server shall record the runs where no other is configured; otherwise flows are called as
            plain functions then.

    Raises:
        ServerError: when the server that Prefect is set to cannot be reached, or the temporary one has no folder to write to.
    """
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "INFO" if verbose else "CRITICAL")
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")
    show_progress(True)
    from hubflow.orchestration.temporary_server import TemporaryServer, is_nothing_configured, require_prefect_home
    from hubflow.workers.processes import start_early

    start_early()  # it imports Paddle while this process imports Prefect
    starting = "[dim]no Prefect server is configured: starting a temporary one …[/dim]"
    if is_nothing_configured() and not records:
        from hubflow.orchestration.run_context import without_prefect

        with stdout_kept(), without_prefect():
            with uncollected():
                _import(*NEEDED_AT_ONCE)
            yield
        return
    if is_nothing_configured():
        require_prefect_home()
        say(starting)
        temporary = TemporaryServer()  # before Prefect is imported, which takes seconds
        with stdout_kept():
            with uncollected():
                _import(*NEEDED_AT_ONCE)
            temporary.wait(float(os.environ["PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"]))
            with _without_heartbeats():
                yield
        return
    with uncollected():
        from prefect.settings import get_current_settings

        _import(*NEEDED_AT_ONCE)
    current = get_current_settings()  # of the environment or of a profile
    server = current.api.url
    try:
        with stdout_kept():
            if not server and current.server.ephemeral.enabled:
                require_prefect_home()
                say(starting)
                _start_server()
            yield
    except RuntimeError as error:
        if server and "Failed to reach API" in str(error):
            raise ServerError(
                f"Prefect's server {server} cannot be reached; start it (`prefect server start`), correct PREFECT_API_URL, "
                "or unset it to run with a temporary server"
            ) from error
        raise


@contextmanager
def without_prefect_files() -> Iterator[None]:
    """Import what imports Prefect, without the settings of Prefect that files of the current folder hold.

    `prefect.toml`, `.env` and `pyproject.toml` may name a logging configuration, which names code that Prefect then calls.
    Commands that need no server of Prefect's need none of these settings.
    """
    with unwound(), tempfile.TemporaryDirectory() as empty, chdir(empty):
        yield


def _without_heartbeats() -> AbstractContextManager[Any]:
    """Send none to a server that ends with this process; a flow waits up to a second for the thread that sends them."""
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    return temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None})


def _start_server() -> None:
    """Start Prefect's own temporary server, which takes 10 s and more, while the worker server imports Paddle.

    Prefect starts it in the same way at the first call when it is not running; an error of it comes up there again.
    """
    from prefect.server.api.server import SubprocessASGIServer

    with suppress(Exception):
        SubprocessASGIServer().start()


def _import(*names: str) -> None:
    for name in names:
        importlib.import_module(name)


@contextmanager
def unwound() -> Iterator[None]:
    """Have a signal that ends the process end the block first, with its clean-up."""
    ends = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, lambda number, _frame: sys.exit(128 + number)) for number in ends]
    try:
        yield
    finally:
        for number, handler in zip(ends, before, strict=True):
            signal.signal(number, handler)


@contextmanager
def stdout_kept() -> Iterator[None]:
    """Send what Paddle's C++ code prints to file descriptor 1 to stderr: stdout is for the outcome alone."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        if os.name == "posix":
            ctypes.CDLL(None).fflush(None)  # what C still holds must not follow the outcome
        os.dup2(kept, 1)
        os.close(kept)


def print_json(value: Any) -> None:
    """Print one line of JSON; where stdout is not UTF-8, with JSON's own escapes in place of what it cannot show."""
    is_utf8 = codecs.lookup(getattr(sys.stdout, "encoding", None) or "utf-8").name == "utf-8"
    typer.echo(printable_json(value, ensure_ascii=not is_utf8))


def escape_what_streams_cannot_show() -> None:
    """Have stdout and stderr show a character that their encoding lacks as an escape; it would end the command otherwise.

    What is logged, by hubflow or by another library, has no characters that a terminal obeys, whatever handler prints it.
    """
    logging.setLogRecordFactory(_printable_record(logging.getLogRecordFactory()))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _printable_record(make: Callable[..., logging.LogRecord]) -> Callable[..., logging.LogRecord]:
    """A factory of records whose messages a terminal shows and does not obey."""

    def made(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record: logging.LogRecord = make(*args, **kwargs)
        try:
            message = record.getMessage()
        except Exception:  # its arguments do not fit: the handler says so, as it always does
            return record
        shown = printable(message)
        if shown != message:
            record.msg, record.args = shown, ()
        return record

    return made


def _print_error(ctx: Any, message: str) -> None:
    if ctx.meta.get("json"):
        print_json({"error": message})
