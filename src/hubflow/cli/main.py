"""The command line: it reads settings, runs flows, and prints the outcome."""

import atexit
import gc
import json
import logging
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import hubflow
from hubflow import schemas  # whose names are imported when they are used, and Pydantic with them
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
from hubflow.errors import HubflowError, SettingsError
from hubflow.runtime.memory import share_one_heap
from hubflow.schemas.importing import search_folder_last
from hubflow.text import printable

if TYPE_CHECKING:
    from rich.table import Table

    from hubflow.schemas import Deployed, PointerChange, SweepResult

__all__ = ["app", "main"]

DEFAULT_PORT = "29500"
"""Of `hosts.port`."""

Store = Annotated[str, typer.Option(help="Where everything is kept: a folder, or a URL.")]
Name = Annotated[str, typer.Argument(help="Under which the export is in use: `name` of the settings.")]
Reason = Annotated[str, typer.Option(help="Why; it is kept in the history.")]
By = Annotated[str | None, typer.Option(help="Who decides; the user of this process when not given.")]


@app.command()
def deployed(
    name: Annotated[str | None, typer.Argument(help="Only this one, with its history.")] = None,
    store: Store = "hubflow-store",
    sync_registry: Annotated[bool, typer.Option("--sync-registry", help="Move the model registry's alias there.")] = False,
    as_json: Json = False,
) -> None:
    """Show which export is in use, under each name, and how that came about."""
    from hubflow.deployment.pointer import deployed_names, read_deployed

    if sync_registry:
        if name is None:
            raise SettingsError("hubflow deployed --sync-registry: give the name whose alias is to be moved")
        _with_registry(lambda: read_deployed(store, name), name, store)
    found = [read_deployed(store, one) for one in ([name] if name else deployed_names(store))]
    if as_json:
        print_json({"deployed": [_pointer_values(one) for one in found]})
    elif name:
        _show_history(found[0])
    else:
        for one in found:
            out.print(_line(one), soft_wrap=True)
        if not found:
            out.print("nothing is in use", soft_wrap=True)


@app.command()
def promote(
    export: Annotated[str, typer.Argument(help="Exported folder in the store.")],
    name: Name,
    store: Annotated[str | None, typer.Option(help="The store; that which the folder lies in when not given.")] = None,
    override: Annotated[bool, typer.Option("--override", help="Whatever the gate says; needs --reason.")] = False,
    reason: Reason = "",
    by: By = None,
    registry: Annotated[
        str | None, typer.Option(help="Prefect block Model Registry whose alias follows; that of NAME when not given.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Put an export in use under NAME: by the gate's latest verdict about it, or with --override by your decision."""
    from hubflow.deployment.pointer import export_of, latest_verdict
    from hubflow.deployment.pointer import override as decide
    from hubflow.deployment.pointer import promote_candidate as run

    opened, reference = export_of(export, store)
    verdict = latest_verdict(opened, reference, name)
    if override:
        move = partial(decide, reference, name, opened, reason, by, verdict, registry_block=registry)
    elif verdict is None:
        raise HubflowError(
            f"{export}: the gate has not evaluated it for {name!r}; run the flow nightly with gate settings, or decide "
            "yourself with --override --reason …"
        )
    else:
        move = partial(run, verdict, opened, by, registry)
    _report_change(_with_registry(move, name, opened, registry), as_json)


@app.command()
def rollback(name: Name, reason: Reason = "", store: Store = "hubflow-store", by: By = None, as_json: Json = False) -> None:
    """Put in use again what was in use under NAME before."""
    from hubflow.deployment.pointer import roll_back

    _report_change(_with_registry(partial(roll_back, name, store, reason, by), name, store), as_json)


def _with_registry(move: Callable[[], "Deployed"], name: str, store: str, block: str | None = None) -> "Deployed":
    """Move a pointer, and the alias of the model registry that follows it; most pointers have none."""
    from hubflow.deployment.pointer import read_deployed
    from hubflow.orchestration.temporary_server import is_nothing_configured

    known = block or read_deployed(store, name).registry_block
    if known is None:
        return move()
    if is_nothing_configured():
        raise SettingsError(
            f"{name}: a model registry follows it, whose block {known!r} is on a Prefect server; set PREFECT_API_URL to the "
            "address of that server"
        )
    with prefect_settled(verbose=False):
        from hubflow.orchestration.registry import move_with_registry

        return move_with_registry(move, name, store, known)


Data = Annotated[str, typer.Argument(help="File of rows, a glob of these, or a folder of images by class.")]
Task = Annotated[str | None, typer.Option(help="What is predicted; by the data when not given.")]
TextColumn = Annotated[str | None, typer.Option(help="Column of the text; by the data when not given.")]
Encoding = Annotated[str, typer.Option(help="Character encoding of text files, such as cp1252 or gb18030.")]
LabelColumn = Annotated[str | None, typer.Option(help="Column of the label; by the data when not given.")]


@app.command()
def init(
    data: Annotated[str | None, typer.Argument(help="File of rows, a glob of these, or a folder of images by class.")] = None,
    name: Annotated[str | None, typer.Option(help="Of the project and its files; by the data when not given.")] = None,
    folder: Annotated[Path, typer.Option(help="Folder of the project.")] = Path(),
    task: Task = None,
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
    encoding: Encoding = "utf-8",
    module: Annotated[str | None, typer.Option(help="Module that is fine-tuned; a small one when not given.")] = None,
    as_json: Json = False,
) -> None:
    """Make a project for your data: settings, a contract, a flow, a test and a prefect.yaml, which deploys as it is."""
    from hubflow.cli.project import default_name, guesses, look_at, write_project

    is_asked = data is None and sys.stdin.isatty() and not as_json
    if data is None:
        if not is_asked:
            raise SettingsError("DATA is missing: give the path of rows, or of a folder of images by class")
        data = typer.prompt("Path of the data")
    seen = look_at(data, task, text_column, label_column, encoding)
    chosen = name or default_name(data)
    if is_asked:
        task = typer.prompt("Task", default=seen.task)
        if task != seen.task:
            seen = look_at(data, task, text_column, label_column, encoding)
        chosen = typer.prompt("Name", default=chosen)
    files = write_project(folder, chosen, seen, module)
    if as_json:
        print_json({"files": [str(file) for file in files], "task": seen.task, "format": seen.spec.format})
        return
    out.print(f"{seen.task} of {seen.spec.train}: {guesses(seen)}", soft_wrap=True)
    for file in files:
        out.print(f"  {file}", soft_wrap=True)
    out.print(f"Look at {chosen}.yaml, then: prefect --no-prompt deploy --all", soft_wrap=True)


contracts = typer.Typer(help="Contracts of rows.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(contracts, name="contract")


@contracts.command("infer")
def infer_contract(
    data: Data,
    name: Annotated[str, typer.Option(help="Of the class.")] = "Rows",
    task: Task = None,
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
    encoding: Encoding = "utf-8",
    output: Annotated[Path | None, typer.Option(help="File to write; stdout when not given.")] = None,
) -> None:
    """Write a pandera contract that your rows keep, for you to edit: types, ranges and values of every column."""
    from hubflow.cli.project import contract_source, look_at

    source = contract_source(look_at(data, task, text_column, label_column, encoding), name)
    if output is None:
        typer.echo(source, nl=False)
        return
    if output.exists():
        raise SettingsError(f"{output} is there already; choose another --output, or remove it")
    output.write_text(source, encoding="utf-8")


@app.command("setup-automations")
def setup_automations(
    notify: Annotated[
        str | None,
        typer.Option(help="Block that gets notifications: TYPE/NAME, such as slack-webhook/alerts."),
    ] = None,
    webhook: Annotated[str | None, typer.Option(help="URL that is posted to; a webhook block is made of it.")] = None,
    flow: Annotated[
        list[str] | None, typer.Option(help="Name of a flow of yours whose runs are watched too; may be repeated.")
    ] = None,
    zombie_after: Annotated[
        int, typer.Option(min=10, help="Seconds without a heartbeat after which a run counts as crashed.")
    ] = 90,
    run_on_promotion: Annotated[str | None, typer.Option(help="Deployment FLOW/NAME that a promotion starts.")] = None,
    as_json: Json = False,
) -> None:
    """Make automations on the Prefect server that is set: for failed runs, models that are not promoted, and lost runs."""
    from hubflow.orchestration.automations import FLOWS
    from hubflow.orchestration.automations import setup_automations as run

    made = run(notify, webhook, [*FLOWS, *(flow or [])], zombie_after, run_on_promotion)
    if as_json:
        print_json({"automations": made})
    else:
        for name in made:
            out.print(name, soft_wrap=True)


def _report_change(moved: "Deployed", as_json: bool) -> None:
    """Print the change of a pointer, and send its event where a Prefect server is named."""
    from hubflow.orchestration.temporary_server import is_nothing_configured

    if as_json:
        print_json(_pointer_values(moved))
    else:
        out.print(_line(moved), soft_wrap=True)
    if not is_nothing_configured():
        from hubflow.orchestration.events import announce, pointer_event

        announce(pointer_event(moved))


def _pointer_values(one: "Deployed") -> dict[str, object]:
    values = one.model_dump(mode="json")
    export = one.export
    return {"name": one.name, "revision": one.revision, "export": export and export.path, "history": values["history"]}


def _line(one: "Deployed") -> str:
    move = one.move
    if move is None:
        return f"{one.name}: nothing is in use"
    return f"{one.name}: {_path(move)}, revision {move.revision}, {_how(move)}"


def _show_history(one: "Deployed") -> None:
    out.print(_line(one), soft_wrap=True)
    table = _lines("revision", "when", "what", "export", "by", "why")
    for move in reversed(one.history):
        when = f"{move.at:%Y-%m-%d %H:%M}"
        table.add_row(str(move.revision), when, move.action, Path(_path(move)).name, move.by, move.reason)
    out.print(table)


def _path(move: "PointerChange") -> str:
    return move.export.path if move.export else "nothing"


def _how(move: "PointerChange") -> str:
    return f"{move.action.replace('_', ' ')} by {move.by} on {move.at:%Y-%m-%d %H:%M} UTC: {move.reason}"


@app.command()
def prune(
    store: Store = "hubflow-store",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    overrides: Override = None,
    as_json: Json = False,
) -> None:
    """Remove old runs, exports, checkpoints and evaluations that nothing in use needs; --set keep_last=5, min_age_days=7."""
    from hubflow.deployment.pruning import prune as run

    settings = schemas.parse_settings(schemas.PruneSettings, schemas.with_overrides({}, overrides or []), "hubflow prune")
    pruned = run(settings, store, dry_run)
    if as_json:
        print_json(pruned.model_dump(mode="json"))
        return
    for path in pruned.removed:
        out.print(path, soft_wrap=True)
    verb = "would be removed" if dry_run else "removed"
    out.print(f"{len(pruned.removed)} {verb}, {pruned.bytes / 1e6:.1f} MB; {len(pruned.kept_in_use)} stay for what is in use")


Export = Annotated[str, typer.Argument(help="Exported folder, or its URL.")]
export_app = typer.Typer(help="Sign exported folders, and check who has signed one.", no_args_is_help=True)
app.add_typer(export_app, name="export")


@export_app.command()
def keygen(
    private: Annotated[Path, typer.Argument(help="File of the private key; it must not be there yet.")], as_json: Json = False
) -> None:
    """Make a key pair: PRIVATE, which only you can read, and PRIVATE.pub, which you give to the users of your exports."""
    from hubflow.store.signing import make_key

    known, public = make_key(private), f"{private}.pub"
    if as_json:
        print_json({"key": known, "private": str(private), "public": public})
        return
    out.print(f"key       {known}\nprivate   {private}\npublic    {public}", soft_wrap=True, markup=False)


@export_app.command()
def sign(
    export: Export,
    key: Annotated[Path | None, typer.Option(help="File of the private key (PEM, ed25519).")] = None,
    key_block: Annotated[str | None, typer.Option(help="Prefect Secret block with the content of such a file.")] = None,
    as_json: Json = False,
) -> None:
    """Sign an export with a private key: it is yours, as its manifest has it now."""
    from hubflow.store.signing import read_signing_key
    from hubflow.store.store import sign_folder

    if (key is None) == (key_block is None):
        raise SettingsError("hubflow export sign: give either --key FILE or --key-block NAME")
    known = sign_folder(export, read_signing_key(key if key is not None else _of_block(str(key_block))))
    if as_json:
        print_json({"export": export, "key": known})
        return
    out.print(f"{export}: signed by key {known}", soft_wrap=True, markup=False)


@export_app.command()
def verify(
    export: Export,
    key: Annotated[list[str] | None, typer.Option(help="Public key: a PEM file. Those of trust.keys when not given.")] = None,
    as_json: Json = False,
) -> None:
    """Verify every file of an export, and that one of the keys has signed it."""
    from hubflow.inference.opened_export import open_export
    from hubflow.schemas.library import library_settings
    from hubflow.store.signing import require_trusted
    from hubflow.store.store import local_folder

    keys = tuple(str(Path(one).absolute()) if Path(one).exists() else one for one in key or library_settings().trust.keys)
    if not keys:
        raise SettingsError("hubflow export verify: there is no key to verify with; give --key FILE, or set trust.keys")
    opened = open_export(local_folder(export), keys)
    assert opened.sealed is not None
    known = require_trusted(opened.sealed, keys)
    if as_json:
        print_json({"export": export, "key": known, "manifest": opened.sealed.sha256})
        return
    out.print(f"{export}: every file is as it was signed, by key {known}", soft_wrap=True, markup=False)


def _of_block(name: str) -> str:
    """The text that a Secret block of Prefect's server keeps."""
    with prefect_settled(verbose=False):
        from prefect.blocks.system import Secret

        try:
            value = Secret.load(name).get()  # type: ignore[union-attr]  # the type of its other, asynchronous form
        except ValueError as error:
            raise SettingsError(f"--key-block: {error}; make a Secret block of that name on this Prefect server") from None
    return str(value)


def _values(config: Path, overrides: list[str] | None) -> dict[str, Any]:
    """The settings of a file, not yet validated; Prefect Variables that they name are looked up on the server that is set."""
    from hubflow.schemas.urls import VARIABLE

    values = schemas.with_overrides(schemas.read_settings(config), overrides or [])
    if VARIABLE not in json.dumps(values, default=str):
        return values
    from hubflow.orchestration.temporary_server import is_nothing_configured

    if is_nothing_configured():
        raise SettingsError(
            f"{config}: it names Prefect Variables ({VARIABLE}…), which are on a Prefect server; set PREFECT_API_URL to the "
            "address of that server"
        )
    with prefect_settled(verbose=False):
        from hubflow.orchestration.parameters import with_variables

        found: dict[str, Any] = with_variables(values)
        return found


def _require_store(settings: "schemas.FineTuneSettings") -> None:
    """Refuse a store that cannot be written before a server is started; one of a Prefect block needs the server."""
    from hubflow.store.store import Store

    if settings.store_block is None:
        Store(settings.store).require_writable()


@app.command()
def nightly(config: Config, overrides: Override = None, as_json: Json = False, verbose: Verbose = False) -> None:
    """Run the nightly flow with the settings of CONFIG: train on what is new, evaluate it, and promote or reject it."""
    settings = schemas.parse_settings(schemas.NightlySettings, _values(config, overrides), str(config))
    _require_store(settings)
    with prefect_settled(verbose):
        from hubflow.flows.nightly import nightly as flow

        result = flow(settings)
    if as_json:
        print_json(result.model_dump(mode="json"))
        return
    out.print(f"{result.outcome.replace('_', ' ')}: {result.reason}", soft_wrap=True)
    for name in ("deployed", "candidate", "sample", "report"):
        if value := getattr(result, name):
            out.print(f"{name:10}{value}", soft_wrap=True)


@app.command()
def sweep(config: Config, overrides: Override = None, as_json: Json = False, verbose: Verbose = False) -> None:
    """Fine-tune with settings drawn from the space in CONFIG, and write the best as a file that `fine-tune` takes."""
    settings = schemas.parse_settings(schemas.SweepSettings, _with_base(_values(config, overrides), config), str(config))
    _require_store(settings.base)
    with prefect_settled(verbose):
        from hubflow.flows.sweep import sweep as flow

        result = flow(settings)
    if as_json:
        print_json(result.model_dump(mode="json"))
        return
    out.print(_table(result))
    out.print(f"best      trial {result.best.number}\nsettings  {result.best_settings}", soft_wrap=True)


def _with_base(values: dict[str, Any], config: Path) -> dict[str, Any]:
    """The settings with `base` read from its file, relative to theirs, when a file is named."""
    base = values.get("base")
    return {**values, "base": schemas.read_settings(config.parent / base)} if isinstance(base, str) else values


def _table(result: "SweepResult") -> "Table":
    names = list(result.best.values)
    table = _lines("trial", "state", result.metric, *names)
    for one in result.trials:
        value = "" if one.value is None else f"{one.value:.4f}"
        shown = [
            f"{one.values.get(name, ''):.4g}" if isinstance(one.values.get(name), float) else str(one.values.get(name, ""))
            for name in names
        ]
        table.add_row(str(one.number), one.state, value, *shown)
    return table


@app.command("fine-tune")
def fine_tune(config: Config, overrides: Override = None, as_json: Json = False, verbose: Verbose = False) -> None:
    """Run the fine-tune flow with the settings of CONFIG."""
    settings = schemas.parse_settings(schemas.FineTuneSettings, _values(config, overrides), str(config))
    _require_store(settings)
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
        typer.echo(f"hubflow {hubflow.__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version, and end.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Fine-tune pretrained Paddle modules as Prefect flows."""


@app.command()
def report(
    store: Store = "hubflow-store",
    port: Annotated[int, typer.Option(min=0, max=65535, help="To listen on; 0 takes a free one.")] = 8010,
) -> None:
    """Serve the reports of a store to browsers on this machine, until Ctrl-C; the address is what report.base_url takes."""
    from hubflow.reporting.serving import ReportServer

    with ReportServer(store, port) as server:
        out.print(f"{len(server.runs())} report(s) at {server.address}/ (Ctrl-C ends)", soft_wrap=True)
        with suppress(KeyboardInterrupt):
            server.serve_forever()


@app.command()
def check(
    config: Config,
    overrides: Override = None,
    allow_imports: Annotated[
        bool,
        typer.Option("--allow-imports", help="Import what CONFIG names, which runs its code: task type, contract, metrics."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Check settings, data and module without training; every fault at once."""
    values: dict[str, Any] = {}
    unreadable: str | None = None
    try:
        values = _values(config, overrides)  # before Prefect is imported without its files
    except SettingsError as error:
        unreadable = str(error)
    with without_prefect_files():
        from hubflow.cli.check import CheckReport
        from hubflow.cli.check import check as run_check
        from hubflow.data.preview import lines

    if unreadable is not None:
        report = CheckReport([unreadable])
    else:
        with stdout_kept(), unwound():
            report = run_check(values, str(config), allow_imports)
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
    table = _lines("name", "kind", "source", "what it is")
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
    given = schemas.with_overrides({"export": export, "data": one_or_more, **named}, overrides or [])
    settings = schemas.parse_settings(schemas.PredictSettings, given, "hubflow predict")
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
def join(
    leader: Annotated[str, typer.Argument(metavar="ADDRESS[:PORT]", help="Of the host that leads, `hosts` of its settings.")],
    wait: Annotated[float, typer.Option(help="Seconds to wait for the host that leads, each time.")] = 600.0,
    stay: Annotated[
        bool, typer.Option("--stay", help="Go on to the next run when one is done, and wait without an end.")
    ] = False,
) -> None:
    """Train on this host, together with the host at ADDRESS, whose settings have `hosts`; HUBFLOW_HOSTS_KEY is on both."""
    from hubflow.workers.joining import join as run

    logging.basicConfig(format="%(asctime)s  %(message)s", stream=sys.stderr)
    logging.getLogger("hubflow").setLevel(logging.INFO)
    address, _, port = leader.partition(":")
    if not address or not (port or DEFAULT_PORT).isdecimal():
        raise typer.BadParameter(f"{leader!r}: expected an address, or ADDRESS:PORT", param_hint="ADDRESS")
    with unwound():
        run(address, int(port or DEFAULT_PORT), wait, stay)


@app.command()
def schema(
    which: Annotated[str, typer.Argument(help="fine-tune, nightly, predict or sweep.")] = "fine-tune",
    as_json: Annotated[bool, typer.Option("--json", help="Print it on one line.")] = False,
) -> None:
    """Print the JSON schema of the settings, for editors."""
    models: dict[str, Any] = {
        "fine-tune": schemas.FineTuneSettings,
        "nightly": schemas.NightlySettings,
        "predict": schemas.PredictSettings,
        "sweep": schemas.SweepSettings,
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
    with prefect_settled(verbose, records=verbose):
        from hubflow.flows.demo import demo as run

        result = run.fn(store)
    if as_json:
        print_json(result)
        return
    table = _lines("", *[f"test {name}" for name in ("accuracy", "loss")], title=result["title"], title_justify="left")
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


def _metrics_table(metrics: dict[str, dict[str, float]]) -> "Table":
    names = list(dict.fromkeys(name for values in metrics.values() for name in values))
    table = _lines("metric", *metrics)  # a line each: there are too many for a terminal's width
    for name in names:
        table.add_row(name, *[f"{values[name]:.4f}" if name in values else "" for values in metrics.values()])
    return table


def _lines(*columns: str, **options: Any) -> "Table":
    """A table without a frame."""
    from rich.table import Table  # which `--help` and `--version` need not wait for

    return Table(*columns, box=None, **options)
