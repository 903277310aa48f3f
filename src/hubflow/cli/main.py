"""The command line: reads settings, runs flows, prints the outcome. Imports Paddle and Prefect only in the commands."""

import atexit
import gc
import json
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from hubflow import __version__
from hubflow.cli import deployed as commands_deployed  # noqa: F401  # put their commands on the app
from hubflow.cli import export as commands_export  # noqa: F401  # put their commands on the app
from hubflow.cli import nightly as commands_nightly  # noqa: F401  # put their commands on the app
from hubflow.cli import sweep as commands_sweep  # noqa: F401  # put their commands on the app
from hubflow.cli.app import (
    FAULT,
    Config,
    Json,
    Override,
    Verbose,
    app,
    escape_what_streams_cannot_show,
    out,
    prefect_settled,
    print_json,
    stdout_kept,
    unwound,
    without_prefect_files,
)
from hubflow.console import show_progress
from hubflow.errors import SettingsError
from hubflow.runtime.memory import share_one_heap
from hubflow.schemas.importing import search_folder_last
from hubflow.schemas.nightly import NightlySettings
from hubflow.schemas.parsing import parse_settings, read_settings, with_overrides
from hubflow.schemas.settings import FineTuneSettings, PredictSettings
from hubflow.schemas.sweep import SweepSettings
from hubflow.text import printable

__all__ = ["app", "main"]


@app.command("fine-tune")
def fine_tune(config: Config, overrides: Override = None, as_json: Json = False, verbose: Verbose = False) -> None:
    """Run the fine-tune flow with the settings of CONFIG."""
    settings = parse_settings(FineTuneSettings, with_overrides(read_settings(config), overrides or []), str(config))
    from hubflow.store.store import Store

    home = Store(settings.store)  # before a server is started: a store that cannot be written is told at once
    if settings.store_block is None:
        home.require_writable()
    with prefect_settled(verbose):
        from hubflow.flows.fine_tune import fine_tune as flow

        result = flow(settings)
    if as_json:
        print_json(result.model_dump(mode="json"))
        return
    out.print(_metrics_table(result.metrics))
    if result.reused:
        out.print(f"reused    {', '.join(result.reused)}: taken from the store; reuse: false makes them again", soft_wrap=True)
    out.print(f"report    {result.report}\nexport    {result.export}\nstore     {result.store}", soft_wrap=True)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"hubflow {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version, and end.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Fine-tune pretrained Paddle modules as Prefect flows."""


@app.command()
def check(
    config: Config,
    overrides: Override = None,
    allow_imports: Annotated[
        bool,
        typer.Option("--allow-imports", help="Import the contract and the metrics that CONFIG names, which runs their code."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Check settings, data and module without training; every fault at once."""
    with without_prefect_files():
        from hubflow.cli.check import CheckReport
        from hubflow.cli.check import check as run_check
        from hubflow.data.preview import lines

    try:
        with stdout_kept(), unwound():
            report = run_check(with_overrides(read_settings(config), overrides or []), str(config), allow_imports)
    except SettingsError as error:  # no settings to check
        report = CheckReport([str(error)])
    if as_json:
        found = report.dataset.rows if report.dataset else None
        seen = {"labels": report.labels, "examples": report.examples, "findings": report.findings}
        seen["not_imported"] = report.not_imported
        print_json({"sound": report.is_sound, "faults": report.faults, "rows": found, **seen})
    elif report.is_sound and report.dataset and report.module:
        rows = ", ".join(f"{count} {split}" for split, count in report.dataset.rows.items())
        out.print(
            f"{config}: sound. {rows} rows, {report.dataset.num_classes} labels, module {report.module.name}", soft_wrap=True
        )
        for line in lines(report.labels, report.examples):
            out.print(line, soft_wrap=True)
        for one in report.findings:
            out.print(f"! {one['check']}: {one['message']}", soft_wrap=True)
    else:
        for fault in report.faults:
            typer.echo(f"✗ {fault}", err=True)
    if not as_json:
        for note in report.not_imported:
            out.print(f"! {note}", soft_wrap=True, markup=False)
    if not report.is_sound:
        raise typer.Exit(FAULT)


@app.command()
def modules(as_json: Json = False) -> None:
    """List the short names of pretrained modules."""
    from hubflow.modules.registry import known_modules

    if as_json:
        print_json(
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
    data: Annotated[list[str], typer.Argument(help="Files of rows, images, or folders of images; quoted globs too.")],
    output: Annotated[str | None, typer.Option(help="Predictions file: .parquet, .csv or .jsonl.")] = None,
    stride: Annotated[
        int | None, typer.Option(help="Read sentences longer than max_seq_len in windows that share at least so many tokens.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that hubflow did not write.")] = False,
    escape_formulas: Annotated[
        bool, typer.Option("--escape-formulas", help="CSV: put ' before texts that spreadsheets would compute.")
    ] = False,
    overrides: Override = None,
    as_json: Json = False,
) -> None:
    """Label DATA with an exported folder; --set names columns, for example --set header=false --set text_column=0."""
    one_or_more = data[0] if len(data) == 1 else data
    named = {"output": output, "stride": stride, "overwrite": overwrite, "escape_formulas": escape_formulas}
    given = with_overrides({"export": export, "data": one_or_more, **named}, overrides or [])
    settings = parse_settings(PredictSettings, given, "hubflow predict")
    show_progress(True)
    with without_prefect_files():
        from hubflow.stages.predict import predict as run

    with stdout_kept():
        result = run.fn(settings)
    if as_json:
        print_json(result.model_dump(mode="json"))
        return
    for note in result.notes:
        out.print(note, soft_wrap=True)
    for name, value in result.metrics.items():
        out.print(f"{name:16} {value:.4f}")
    out.print(f"{result.rows} rows in {result.seconds:.1f} s: {result.output}", soft_wrap=True)


@app.command()
def schema(
    which: Annotated[str, typer.Argument(help="fine-tune, nightly, predict or sweep.")] = "fine-tune",
    as_json: Annotated[bool, typer.Option("--json", help="Print it on one line.")] = False,
) -> None:
    """Print the JSON schema of the settings, for editors."""
    models: dict[str, Any] = {
        "fine-tune": FineTuneSettings,
        "nightly": NightlySettings,
        "predict": PredictSettings,
        "sweep": SweepSettings,
    }
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
    from hubflow.store.store import Store

    Store(store).require_writable()
    with prefect_settled(verbose):
        from hubflow.flows.demo import demo as run

        result = run.fn(store)
    if as_json:
        print_json(result)
        return
    table = Table("", *[f"test {name}" for name in ("accuracy", "loss")], title=result["title"], box=None, title_justify="left")
    for name, metrics in result["metrics"].items():
        table.add_row(name, f"{metrics['accuracy']:.4f}", f"{metrics['loss']:.4f}")
    out.print(table)
    out.print(f"report    {result['report']}\nexport    {result['export']}", soft_wrap=True)


def main() -> None:
    """Entry point of `hubflow`; what settings name by module and name is looked for in the working folder too, at last."""
    escape_what_streams_cannot_show()
    search_folder_last(Path.cwd())
    share_one_heap()
    atexit.register(gc.freeze)  # Python ends 1.5 s sooner when it does not look through all modules once more
    try:
        app()
    except Exception:  # of which the message may hold a file's name, or a row
        sys.stderr.write(printable(traceback.format_exc()))
        sys.exit(1)


def _metrics_table(metrics: dict[str, dict[str, float]]) -> Table:
    names = list(dict.fromkeys(name for values in metrics.values() for name in values))
    table = Table("metric", *metrics, box=None)  # a line each: there are too many for a terminal's width
    for name in names:
        table.add_row(name, *[f"{values[name]:.4f}" if name in values else "" for values in metrics.values()])
    return table
