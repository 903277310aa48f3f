"""Commands about the origin of an export: `export keygen`, `export sign`, `export verify`."""

from pathlib import Path
from typing import Annotated

import typer

from hubflow.cli.app import Json, app, out, prefect_settled, print_json
from hubflow.errors import SettingsError

Export = Annotated[str, typer.Argument(help="Exported folder, or its URL.")]
export_app = typer.Typer(help="Sign exported folders, and check who has signed one.", no_args_is_help=True)
app.add_typer(export_app, name="export")


@export_app.command()
def keygen(
    private: Annotated[Path, typer.Argument(help="File of the private key; it must not be there yet.")], as_json: Json = False
) -> None:
    """Make a key pair: PRIVATE, which only you can read, and PRIVATE.pub, which goes to whoever uses exports."""
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
