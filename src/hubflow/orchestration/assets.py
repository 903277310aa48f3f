"""Prefect assets: a run's data set, its export and the deployed pointer, and which of them was made of which."""

from pathlib import Path
from typing import Any

from prefect.assets import Asset, AssetProperties
from prefect.context import AssetContext
from pydantic import ValidationError

from hubflow.orchestration.run_context import run_name
from hubflow.schemas.deployment import Deployed
from hubflow.schemas.references import DatasetRef, ExportRef
from hubflow.schemas.urls import is_url
from hubflow.text import printable


def note_asset(result: Any, store: str, was_reused: bool) -> None:
    """Tell Prefect which asset the task run around the caller has made, with its path and hash, for the lineage of later ones.

    An asset has one key for all runs of a name, so that what a nightly makes is one history: `<store>/datasets/<name>`,
    `<store>/exports/<name>`, `<store>/deployed/<name>`. A store whose path cannot be part of a key has no assets. What was
    taken from the store is not made again, but what comes after it still depends on it.

    Args:
        result: of a stage; only data sets, exports and deployed pointers are assets.
        store: folder, or URL, of the store.
        was_reused: whether the store had it.
    """
    context, asset = AssetContext.get(), _asset(result, store)
    if context is None or asset is None:
        return
    if was_reused:
        context.upstream_assets = {asset}
    else:
        context.downstream_assets = {asset}
        context.materialized_by = "hubflow"
        context.materialization_metadata = {asset.key: _metadata(result)}
    context.update_tracked_assets()


def _asset(result: Any, store: str) -> Asset | None:
    kind = next((name for known, name in _KINDS if isinstance(result, known)), None)
    name = result.name if isinstance(result, Deployed) else run_name()
    if kind is None or name is None:
        return None
    root = store if is_url(store) else f"file://{Path(store).expanduser().absolute()}"
    try:
        return Asset(key=f"{root.rstrip('/')}/{kind}/{name}", properties=AssetProperties(name=f"{name}: {_SHOWN[kind]}"))
    except ValidationError:  # a space in the store's path, for example
        return None


_KINDS = ((DatasetRef, "datasets"), (ExportRef, "exports"), (Deployed, "deployed"))
_SHOWN = {"datasets": "data set", "exports": "export", "deployed": "in use"}


def _metadata(result: Any) -> dict[str, Any]:
    if isinstance(result, Deployed):
        move = result.move
        return {
            "revision": result.revision,
            "export": move and move.export and move.export.path,
            "reason": move and move.reason,
        }
    known = {"path": result.path, "sha256": result.sha256}
    if isinstance(result, DatasetRef):
        return {**known, "rows": dict(result.rows)}
    return {**known, "metrics": {printable(split): dict(values) for split, values in result.metrics.items()}}
