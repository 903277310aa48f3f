"""The command `nightly`. Imports Paddle and Prefect only when it runs."""

from hubflow.cli.app import Config, Json, Override, Verbose, app, out, prefect_settled, print_json
from hubflow.schemas.nightly import NightlySettings
from hubflow.schemas.parsing import parse_settings, read_settings, with_overrides


@app.command()
def nightly(config: Config, overrides: Override = None, as_json: Json = False, verbose: Verbose = False) -> None:
    """Run the nightly flow with the settings of CONFIG: train on what is new, judge it, put it to use or keep it back."""
    settings = parse_settings(NightlySettings, with_overrides(read_settings(config), overrides or []), str(config))
    from hubflow.store.store import Store

    home = Store(settings.store)  # before a server is started: a store that cannot be written is told at once
    if settings.store_block is None:
        home.require_writable()
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
