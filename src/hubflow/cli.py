"""The command line: reads settings, runs flows, prints the outcome. Imports Paddle and Prefect only in the commands."""

import ctypes
import importlib
import json
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from typer.core import TyperGroup

from hubflow.schemas.errors import HubflowError, SettingsError
from hubflow.schemas.parsing import parse_settings, read_settings, with_overrides
from hubflow.schemas.settings import FineTuneSettings, PredictSettings

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
            told = getattr(error, "format_message", None)  # of an option or argument that is wrong
            _print_error(ctx, told() if told else f"{type(error).__name__}: {error}")
            raise


app = typer.Typer(
    cls=Commands,
    help="Fine-tune pretrained Paddle modules as Prefect flows.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
out = Console(highlight=False)

Json = Annotated[bool, typer.Option("--json", help="Print one machine-readable line at the end, and nothing else to stdout.")]
Override = Annotated[list[str] | None, typer.Option("--set", help="Override a setting, for example train.epochs=2.")]
Verbose = Annotated[bool, typer.Option("--verbose", help="Show Prefect's log.")]
Config = Annotated[Path, typer.Argument(help="Settings file, YAML or JSON.")]


@app.command("fine-tune")
def fine_tune(config: Config, overrides: Override = None, as_json: Json = False, verbose: Verbose = False) -> None:
    """Run the fine-tune flow with the settings of CONFIG."""
    settings = parse_settings(FineTuneSettings, with_overrides(read_settings(config), overrides or []), str(config))
    from hubflow.stages.store import Store

    home = Store(settings.store)  # before a server is started: a store that cannot be written is told at once
    if settings.store_block is None:
        home.require_writable()
    with _prefect(verbose):
        from hubflow.flows.fine_tune import fine_tune as flow

        result = flow(settings)
    if as_json:
        _print_json(result.model_dump(mode="json"))
        return
    out.print(_metrics_table(result.metrics))
    out.print(f"report    {result.report}\nexport    {result.export}\nstore     {result.store}", soft_wrap=True)


@app.command()
def check(config: Config, overrides: Override = None, as_json: Json = False) -> None:
    """Check settings, data and module without training; every fault at once."""
    from hubflow.stages.check import CheckReport
    from hubflow.stages.check import check as run_check

    try:
        with _stdout_kept():
            report = run_check(with_overrides(read_settings(config), overrides or []), str(config))
    except SettingsError as error:  # no settings to check
        report = CheckReport([str(error)])
    if as_json:
        found = report.dataset.rows if report.dataset else None
        _print_json({"sound": report.is_sound, "faults": report.faults, "rows": found})
    elif report.is_sound and report.dataset and report.module:
        rows = ", ".join(f"{count} {split}" for split, count in report.dataset.rows.items())
        out.print(
            f"{config}: sound. {rows} rows, {report.dataset.num_classes} labels, module {report.module.name}", soft_wrap=True
        )
    else:
        for fault in report.faults:
            typer.echo(f"✗ {fault}", err=True)
    if not report.is_sound:
        raise typer.Exit(FAULT)


@app.command()
def modules(as_json: Json = False) -> None:
    """List the short names of pretrained modules."""
    from hubflow.stages.hub.registry import known_modules

    if as_json:
        _print_json(
            {
                "modules": [
                    {"name": one.name, "kind": one.kind, "source": one.source, "description": one.description}
                    for one in known_modules()
                ]
            }
        )
        return
    table = Table("name", "kind", "source", "what it is", box=None)
    for one in known_modules():
        table.add_row(one.name, one.kind, one.source, one.description)
    out.print(table)


@app.command()
def predict(
    export: Annotated[str, typer.Argument(help="Exported folder.")],
    data: Annotated[str, typer.Argument(help="File of rows, or folder of images.")],
    output: Annotated[str | None, typer.Option(help="Predictions file: .parquet, .csv or .jsonl.")] = None,
    overrides: Override = None,
    as_json: Json = False,
) -> None:
    """Label DATA with an exported folder; --set names columns, for example --set header=false --set text_column=0."""
    given = with_overrides({"export": export, "data": data, "output": output}, overrides or [])
    settings = parse_settings(PredictSettings, given, "hubflow predict")
    _show_progress()
    from hubflow.stages.predict import predict as run

    with _stdout_kept():
        result = run(settings)
    if as_json:
        _print_json(result.model_dump(mode="json"))
        return
    for note in result.notes:
        out.print(note, soft_wrap=True, markup=False)
    for name, value in result.metrics.items():
        out.print(f"{name:16} {value:.4f}")
    out.print(f"{result.rows} rows in {result.seconds:.1f} s: {result.output}", soft_wrap=True)


@app.command()
def schema(
    which: Annotated[str, typer.Argument(help="fine-tune or predict.")] = "fine-tune",
    as_json: Annotated[bool, typer.Option("--json", help="Print it on one line.")] = False,
) -> None:
    """Print the JSON schema of the settings, for editors."""
    models: dict[str, Any] = {"fine-tune": FineTuneSettings, "predict": PredictSettings}
    if which not in models:
        raise typer.BadParameter(f"expected one of {', '.join(models)}")
    declared = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    typer.echo(json.dumps({**declared, **models[which].model_json_schema()}, indent=None if as_json else 1))


@app.command()
def demo(
    store: Annotated[str, typer.Option(help="Where everything is kept.")] = "hubflow-store",
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Fine-tune a small module on scikit-learn's handwritten digits, beside the same network trained from scratch."""
    from hubflow.stages.store import Store

    Store(store).require_writable()
    with _prefect(verbose):
        from hubflow.flows.demo import demo as run

        result = run(store)
    if as_json:
        _print_json(result)
        return
    table = Table("", *[f"test {name}" for name in ("accuracy", "loss")], title=result["title"], box=None, title_justify="left")
    for name, metrics in result["metrics"].items():
        table.add_row(name, f"{metrics['accuracy']:.4f}", f"{metrics['loss']:.4f}")
    out.print(table)
    out.print(f"report    {result['report']}\nexport    {result['export']}", soft_wrap=True)


def main() -> None:
    """Entry point of `hubflow`; what settings name by module and name is looked for in the working folder too, at last."""
    sys.path.append(str(Path.cwd()))
    app()


class ServerError(HubflowError):
    """Prefect's server cannot be reached; the message names it."""


@contextmanager
def _prefect(verbose: bool) -> Iterator[None]:
    """Settle what Prefect reads when it is imported, without overruling the user; show progress.

    Raises:
        ServerError: when the server that Prefect is set to cannot be reached.
    """
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "INFO" if verbose else "CRITICAL")
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")
    _show_progress()
    from prefect.settings import get_current_settings

    from hubflow.stages.console import say

    current = get_current_settings()  # of the environment or of a profile
    server = current.api.url
    try:
        with _stdout_kept():
            if not server and current.server.ephemeral.enabled:
                say("[dim]no Prefect server is configured: starting a temporary one …[/dim]")
                _start_server_while_importing()
            yield
    except RuntimeError as error:
        if server and "Failed to reach API" in str(error):
            raise ServerError(
                f"Prefect's server {server} cannot be reached; start it (`prefect server start`), correct PREFECT_API_URL, "
                "or unset it to run with a temporary server"
            ) from error
        raise


def _start_server_while_importing() -> None:
    """Start Prefect's own temporary server, which takes 10 s and more, and import meanwhile what the stages will need.

    Prefect starts it in the same way at the first call when it is not running; an error of it comes up there again.
    """

    def start() -> None:
        from prefect.server.api.server import SubprocessASGIServer

        with suppress(Exception):
            SubprocessASGIServer().start()

    starting = threading.Thread(target=start, name="prefect-server", daemon=True)
    starting.start()
    for name in ("hubflow.stages.hub.runtime", "sklearn.datasets", "sklearn.metrics"):
        importlib.import_module(name)
    starting.join()


@contextmanager
def _stdout_kept() -> Iterator[None]:
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


def _show_progress() -> None:
    from hubflow.stages.console import show_progress

    show_progress(True)


def _metrics_table(metrics: dict[str, dict[str, float]]) -> Table:
    names = list(dict.fromkeys(name for values in metrics.values() for name in values))
    table = Table("split", *names, box=None)
    for split, values in metrics.items():
        table.add_row(split, *[f"{values[name]:.4f}" if name in values else "" for name in names])
    return table


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, ensure_ascii=False))


def _print_error(ctx: Any, message: str) -> None:
    if ctx.meta.get("json"):
        _print_json({"error": message})
