"""Commands about what is in use: `deployed`, `promote`, `rollback`, `prune`. Imports Paddle and Prefect in the commands."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from hubflow.cli.app import Json, Override, app, out, print_json
from hubflow.errors import HubflowError
from hubflow.schemas.parsing import parse_settings, with_overrides
from hubflow.schemas.prune import PruneSettings

if TYPE_CHECKING:
    from hubflow.schemas.deployed import Deployed, PointerChange

Store = Annotated[str, typer.Option(help="Where everything is kept: a folder, or a URL.")]
Name = Annotated[str, typer.Argument(help="Under which the export is in use: `name` of the settings.")]
Reason = Annotated[str, typer.Option(help="Why; it is kept in the history.")]
By = Annotated[str | None, typer.Option(help="Who decides; the user of this process when not given.")]


@app.command()
def deployed(
    name: Annotated[str | None, typer.Argument(help="Only this one, with its history.")] = None,
    store: Store = "hubflow-store",
    as_json: Json = False,
) -> None:
    """Show which export is in use, under each name, and how that came about."""
    from hubflow.deployment.pointer import deployed_names, read_deployed

    found = [read_deployed(store, one) for one in ([name] if name else deployed_names(store))]
    if as_json:
        print_json({"deployed": [_told(one) for one in found]})
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
    as_json: Json = False,
) -> None:
    """Put an export in use under NAME: by the gate's latest verdict about it, or with --override by your decision."""
    from hubflow.deployment.lookup import export_of, latest_verdict
    from hubflow.deployment.pointer import override as decide
    from hubflow.deployment.pointer import promote_candidate as run

    place, reference = export_of(export, store)
    verdict = latest_verdict(place, reference, name)
    if override:
        moved = decide(reference, name, place, reason, by, verdict)
    elif verdict is None:
        raise HubflowError(
            f"{export}: the gate has not evaluated it for {name!r}; run the flow nightly with gate settings, or decide "
            "yourself with --override --reason …"
        )
    else:
        moved = run(verdict, place, by)
    _tell(moved, as_json)


@app.command()
def rollback(name: Name, reason: Reason = "", store: Store = "hubflow-store", by: By = None, as_json: Json = False) -> None:
    """Put in use again what was in use under NAME before."""
    from hubflow.deployment.pointer import roll_back

    _tell(roll_back(name, store, reason, by), as_json)


def _tell(moved: "Deployed", as_json: bool) -> None:
    if as_json:
        print_json(_told(moved))
    else:
        out.print(_line(moved), soft_wrap=True)


def _told(one: "Deployed") -> dict[str, object]:
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
    table = Table("revision", "when", "what", "export", "by", "why", box=None)
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

    settings = parse_settings(PruneSettings, with_overrides({}, overrides or []), "hubflow prune")
    pruned = run(settings, store, dry_run)
    if as_json:
        print_json(pruned.model_dump(mode="json"))
        return
    for path in pruned.removed:
        out.print(path, soft_wrap=True)
    told = "would be removed" if dry_run else "removed"
    out.print(f"{len(pruned.removed)} {told}, {pruned.bytes / 1e6:.1f} MB; {len(pruned.kept_in_use)} stay for what is in use")
