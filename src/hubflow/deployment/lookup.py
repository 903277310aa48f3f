"""Find exports, and the gate's verdicts about them, by what a person types. Must not import Paddle."""

from pydantic import ValidationError

from hubflow.errors import StoreError
from hubflow.schemas.references import ExportRef, VerdictRef
from hubflow.schemas.urls import absolute_address, is_url
from hubflow.schemas.verdicts import VERDICT, Verdict
from hubflow.store.store import Artifact, Store, split_address

EXPORTS, VERDICTS = "exports", "verdicts"


def export_of(export: str, store: str | None = None) -> tuple[str, ExportRef]:
    """The store that an exported folder lies in, and its reference.

    Args:
        export: `<store>/exports/<key>`, `exports/<key>`, or the key alone where `store` is given.
        store: the store; that of the path when None.

    Raises:
        StoreError: when there is no such export, or it is altered.
    """
    place = store
    if is_url(export):
        place, kind, key = split_address(export)
        if kind != EXPORTS:
            raise StoreError(f"{export}: not an export of a store; expected <store>/{EXPORTS}/KEY")
    elif store is None:
        *above, kind, key = absolute_address(export).split("/")
        place = "/".join(above)
        if kind != EXPORTS or not place:
            raise StoreError(f"{export}: not an export of a store; expected <store>/{EXPORTS}/KEY, or KEY with --store")
    else:
        key = export.rstrip("/").rpartition("/")[2]
    assert place is not None
    found = Store(place).find(EXPORTS, key)
    if found is None:
        raise StoreError(f"{export}: the store {place} has no intact export {key!r}; see its folder {EXPORTS}")
    return place, export_reference(found)


def export_reference(found: Artifact) -> ExportRef:
    """Reference to an export from what its manifest says."""
    names = ("task", "num_classes", "label_map_sha256", "metrics")
    return ExportRef(path=found.path, sha256=found.sha256, **{name: found.facts[name] for name in names})


def latest_verdict(store: str, export: ExportRef, name: str) -> VerdictRef | None:
    """The gate's latest verdict about an export for the pointer `name`, or None."""
    home = Store(store)
    newest: tuple[str, VerdictRef] | None = None
    for key in home.names(VERDICTS):
        found = home.find(VERDICTS, key)
        if found is None or found.facts["candidate"]["sha256"] != export.sha256 or found.facts["name"] != name:
            continue
        if newest is None or found.facts["at"] > newest[0]:
            newest = (found.facts["at"], verdict_reference(found))
    return newest and newest[1]


def verdict_reference(found: Artifact) -> VerdictRef:
    """Reference to a verdict from what its manifest says."""
    names = ("verdict", "candidate", "name", "revision", "reason")
    return VerdictRef(path=found.path, sha256=found.sha256, **{name: found.facts[name] for name in names})


def read_verdict(home: Store, verdict: VerdictRef) -> Verdict:
    """All that a verdict says.

    Raises:
        StoreError: when it is missing, altered or no verdict.
    """
    artifact = home.open(verdict)
    try:
        return Verdict.model_validate_json(artifact.sealed.read(VERDICT))
    except ValidationError as error:
        raise StoreError(f"{artifact.folder / VERDICT}: no readable verdict ({error}); judge the candidate again") from error
