"""Signatures of exports: ed25519 over the bytes of the manifest, which has the hash of every file.

The signature is a file of the export beside the manifest, so that it goes wherever the export goes. Keys are PEM files, as
openssl makes them: `openssl genpkey -algorithm ed25519`.
"""

import base64
import contextlib
import functools
import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hubflow.errors import SettingsError, SignatureError, join_limited
from hubflow.files import read_file
from hubflow.schemas.library import library_settings
from hubflow.store.manifest import MANIFEST, MANIFEST_SIGNATURE, SealedFolder, verify_folder, write_atomically

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

_MAX_BYTES = 64 * 2**10
_MAX_SIGNATURES = 32
_INLINE = "MCowBQYDK2VwAyEA"
"""How each ed25519 key begins between the lines of a PEM file: what comes before the key's own 32 bytes, in base64."""


class _Signature(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    algorithm: Literal["ed25519"] = "ed25519"
    key: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    signature: Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]{86}==$")]


class _Signatures(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    format_version: Literal[1] = 1
    signatures: tuple[_Signature, ...] = Field(max_length=_MAX_SIGNATURES)


def make_key(private: Path) -> str:
    """Write a new key pair: the private key, which its owner alone can read, and the public one beside it as `<private>.pub`.

    Returns:
        The key's fingerprint.

    Raises:
        SignatureError: when a file of either name is there already, or cannot be written.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

    key, public = Ed25519PrivateKey.generate(), private.with_name(f"{private.name}.pub")
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    shown = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    try:
        if public.exists() or public.is_symlink():
            raise FileExistsError(f"{public} is there already")
        _write_new(private, secret, 0o600)
        _write_new(public, shown, 0o666)
    except OSError as error:
        raise SignatureError(f"{private}: the keys cannot be written ({error}); choose another name") from error
    return fingerprint(key.public_key())


def read_signing_key(source: Path | str) -> "Ed25519PrivateKey":
    """A private key.

    Args:
        source: its PEM file, or the content of one.

    Raises:
        SignatureError: when it cannot be read, is encrypted, or of another kind.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    name = str(source) if isinstance(source, Path) else "the signing key"
    remedy = (
        "expected an ed25519 key as `hubflow export keygen` or `openssl genpkey -algorithm ed25519` write it, not encrypted"
    )
    try:
        content = read_file(source, _MAX_BYTES) if isinstance(source, Path) else source.encode()
        key = load_pem_private_key(content, None)
    except OSError as error:
        raise SignatureError(f"{name} cannot be read ({error.strerror}); name the file of the private key") from error
    except (ValueError, TypeError, UnsupportedAlgorithm):  # the error may show what it read
        raise SignatureError(f"{name}: no private key that can be read; {remedy}") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise SignatureError(f"{name}: a private key of another kind; {remedy}")
    return key


def fingerprint(key: "Ed25519PublicKey") -> str:
    """What a key is known by: SHA-256 of its DER form, which `openssl pkey -pubin -outform DER | sha256sum` prints."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def sign(sealed: SealedFolder, key: "Ed25519PrivateKey") -> str:
    """Add a key's signature to a sealed folder, in the place of an earlier one of the same key.

    Returns:
        The key's fingerprint.

    Raises:
        SignatureError: when the signatures that are there cannot be read, or the file cannot be written.
    """
    known, path = fingerprint(key.public_key()), sealed.folder / MANIFEST_SIGNATURE
    signature = _Signature(key=known, signature=base64.b64encode(key.sign(sealed.manifest)).decode())
    others = [one for one in _signatures(sealed.folder) if one.key != known]
    if len(others) >= _MAX_SIGNATURES:
        raise SignatureError(
            f"{path}: {len(others)} signatures, expected at most {_MAX_SIGNATURES - 1} beside a new one; remove it"
        )
    content = _Signatures(signatures=(*others, signature)).model_dump_json(indent=1) + "\n"
    try:
        write_atomically(path, content.encode())
    except OSError as error:
        raise SignatureError(f"{path} cannot be written ({error})") from error
    return known


def sign_export(folder: Path) -> None:
    """Sign an export that was just sealed here with `trust.signing_key`; without one nothing is done.

    Raises:
        SignatureError: as `require_signing`.
    """
    require_signing()
    key = library_settings().trust.signing_key
    if key is not None:
        sign(verify_folder(folder), read_signing_key(Path(key)))


def require_signing() -> None:
    """Find out, before long work, whether an export made here would be used here.

    Raises:
        SignatureError: when `trust.keys` is set, and `trust.signing_key` is not, or cannot be read, or is none of them.
    """
    trust = library_settings().trust
    if trust.signing_key is None:
        if trust.keys:
            raise SignatureError(
                "trust.keys is set, so exports must be signed, but there is no trust.signing_key to sign those of this machine "
                "with; set it to the file of a private key, for example HUBFLOW_TRUST_SIGNING_KEY=/run/secrets/export.key"
            )
        return
    known = fingerprint(read_signing_key(Path(trust.signing_key)).public_key())
    if trust.keys and known not in trusted_keys(trust.keys):
        raise SignatureError(
            f"trust.signing_key {trust.signing_key} has the fingerprint {known[:16]}, which no key of trust.keys has: exports "
            "signed with it would be refused here; add its public key to trust.keys"
        )


def require_trusted(sealed: SealedFolder, keys: tuple[str, ...] | None = None) -> str | None:
    """Refuse an export that no trusted key has signed.

    Args:
        sealed: the export.
        keys: as `trust.keys` has them; those of `trust.keys` when None.

    Returns:
        Fingerprint of a key that has signed it; None where no keys are set, so that every export is accepted.

    Raises:
        SignatureError: saying whether it is not signed, signed by other keys, or altered since.
    """
    keys = library_settings().trust.keys if keys is None else keys
    if not keys:
        return None
    from cryptography.exceptions import InvalidSignature

    known, found = trusted_keys(keys), _signatures(sealed.folder)
    by_trusted = [one for one in found if one.key in known]
    for one in by_trusted:
        with contextlib.suppress(InvalidSignature, ValueError):
            known[one.key].verify(base64.b64decode(one.signature, validate=True), sealed.manifest)
            return one.key
    if by_trusted:
        raise SignatureError(
            f"{sealed.folder}: the signature of key {by_trusted[0].key[:16]} is not of this {MANIFEST}: the export was altered "
            "after it was signed. It is not used: get it again from where it was signed"
        )
    by = f"signed by {join_limited(one.key[:16] for one in found)}, not by a key of trust.keys" if found else "not signed"
    raise SignatureError(
        f"{sealed.folder}: the export is {by}; trusted are {join_limited(key[:16] for key in known)}. It is not used: sign it "
        "with `hubflow export sign EXPORT --key FILE` where you know that it is yours, or add the public key to trust.keys"
    )


def trusted_keys(keys: tuple[str, ...]) -> dict[str, "Ed25519PublicKey"]:
    """Public keys by their fingerprint.

    Args:
        keys: each the absolute path of a PEM file, or what stands between the lines of one.

    Raises:
        SettingsError: naming the key that cannot be read.
    """
    read = [_public_key(key.encode() if key.startswith(_INLINE) else _key_file(key), key) for key in keys]
    return {fingerprint(key): key for key in read}


def _key_file(path: str) -> bytes:
    if not Path(path).is_absolute():
        raise SettingsError(
            f"trust.keys: {path!r} is neither an absolute path nor a key; expected the file of a public key (PEM), or its line "
            f"{_INLINE}…"
        )
    try:
        return read_file(path, _MAX_BYTES)
    except OSError as error:
        raise SettingsError(f"trust.keys: {path} cannot be read ({error.strerror}); name the file of a public key") from error


@functools.lru_cache(maxsize=64)
def _public_key(content: bytes, shown: str) -> "Ed25519PublicKey":
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_der_public_key, load_pem_public_key

    try:
        is_inline = content.startswith(_INLINE.encode())
        key = load_der_public_key(base64.b64decode(content, validate=True)) if is_inline else load_pem_public_key(content)
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise SettingsError(
            f"trust.keys: {shown}: no public ed25519 key; expected the PEM file that `openssl pkey -pubout` writes"
        )
    return key


def _signatures(folder: Path) -> tuple[_Signature, ...]:
    path = folder / MANIFEST_SIGNATURE
    try:
        return _Signatures.model_validate_json(read_file(path, _MAX_BYTES, follow_links=False)).signatures
    except FileNotFoundError:
        return ()
    except (OSError, ValidationError) as error:
        raise SignatureError(f"{path}: no readable signatures ({error}); remove it and sign the export again") from error


def _write_new(path: Path, content: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(content)
