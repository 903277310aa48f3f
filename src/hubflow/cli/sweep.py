"""The command `hubflow sweep`. Imports Paddle and Prefect only when it runs."""

from pathlib import Path
from typing import Any

from rich.table import Table

from hubflow.cli.app import Config, Json, Override, Verbose, app, out, prefect_settled, print_json
from hubflow.schemas.parsing import parse_settings, read_settings, with_overrides
from hubflow.schemas.sweep import SweepResult, SweepSettings


@app.command()
def sweep(config: Config, overrides: Override = None, as_json: Json = False, verbose: Verbose = False) -> None:
    """Fine-tune with settings drawn from the space in CONFIG, and write the best as a file that `fine-tune` takes."""
    settings = parse_settings(
        SweepSettings, _with_base(with_overrides(read_settings(config), overrides or []), config), str(config)
    )
    from hubflow.store.store import Store

    home = Store(settings.base.store)  # before a server is started
    if settings.base.store_block is None:
        home.require_writable()
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
    return {**values, "base": read_settings(config.parent / base)} if isinstance(base, str) else values


def _table(result: SweepResult) -> Table:
    names = list(result.best.values)
    table = Table("trial", "state", result.metric, *names, box=None)
    for one in result.trials:
        value = "" if one.value is None else f"{one.value:.4f}"
        shown = [
            f"{one.values.get(name, ''):.4g}" if isinstance(one.values.get(name), float) else str(one.values.get(name, ""))
            for name in names
        ]
        table.add_row(str(one.number), one.state, value, *shown)
    return table
