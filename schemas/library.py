"""Settings of the library: what the owner of a machine allows, the same for every run on it.

They come from the environment of the process, `HUBFLOW_LIMITS_MAX_IMAGE_PIXELS=50000000`, and from the TOML file that
`HUBFLOW_CONFIG` names, with a table for each section; the environment has the last word. No setting of a run can change them,
and no file of the current folder is read: who starts a run, or wrote the files it reads, may not be the owner of the machine.
The docs list them: reference, settings of the library.
"""

import os
import tomllib
from collections.abc import Mapping
from functools import lru_cache
from types import UnionType
from typing import Annotated, Any, get_args, get_origin

from pydantic import Field, StringConstraints

from hubflow.errors import SettingsError
from hubflow.files import read_text
from hubflow.schemas.parsing import Settings, parse_settings

PREFIX = "HUBFLOW_"
CONFIG = "HUBFLOW_CONFIG"
"""Environment variable: path of the TOML file."""
MAX_CONFIG_BYTES = 1 << 20
Scheme = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9+.-]*$")]


class Limits(Settings):
    """How much one input may ask of the machine. What exceeds a limit is refused with an error that names the limit."""

    max_document_bytes: int = Field(
        268_435_456, ge=1, description="Bytes of a file that is read at once: settings, manifests, configurations, vocabularies"
    )
    max_image_bytes: int = Field(1_073_741_824, ge=1, description="Bytes of an image file")
    max_image_pixels: int = Field(100_000_000, ge=1, description="Pixels of an image (width × height)")
    max_image_side: int = Field(65_535, ge=1, description="Pixels of an image's longer side")
    max_image_scans: int = Field(100, ge=1, description="Scans of a progressive JPEG")
    image_memory_bytes: int = Field(
        1_073_741_824,
        ge=1,
        description="Memory for the images that threads of one process decode together; a larger image is decoded alone",
    )
    max_parameters: int = Field(1_000_000_000, ge=1, description="Parameters of a module")
    max_tensors: int = Field(20_000, ge=1, description="Tensors of a module's weights")
    max_weights_expansion: int = Field(
        4,
        ge=1,
        description="Bytes in memory of pickled weights for each byte of their file; half precision takes 2, as float32",
    )
    max_config_bytes: int = Field(10_000_000, ge=1, description="Bytes of a module's config.json, and other files of settings")
    max_tokenizer_bytes: int = Field(50_000_000, ge=1, description="Bytes of a file of a tokenizer")
    max_tokenizer_growth: int = Field(300, ge=1, description="Bytes that a tokenizer makes of one byte of text, at most")
    max_download_bytes: int = Field(20_000_000_000, ge=1, description="Bytes of a file that is fetched from a hub")
    max_settings_bytes: int = Field(
        1_000_000,
        ge=1,
        description="Bytes of a settings file, and of its values where aliases of YAML stand for what they name",
    )
    max_nesting: int = Field(
        64, ge=8, le=200, description="Lists and objects within one another, in settings, JSON and the types of columns"
    )
    max_columns: int = Field(2_000, ge=1, description="Columns of a file of rows; fields of nested Parquet columns count")
    max_line_chars: int = Field(
        33_554_432, ge=1_000, description="Characters of a line, of a record that spans lines, and of a sentence"
    )
    max_decoded_bytes: int = Field(17_179_869_184, ge=1, description="Bytes that a compressed file of rows may hold")
    max_batch_bytes: int = Field(
        1_073_741_824, ge=1 << 20, description="Bytes in memory that rows of Parquet which are decoded together may take"
    )
    max_footer_bytes: int = Field(33_554_432, ge=1, description="Bytes of a Parquet file's footer")

    storage_timeout_seconds: float = Field(
        15.0, gt=0, description="How long the storage of a store may take to answer a request, before it is sent again"
    )
    tracking_timeout_seconds: float = Field(
        10.0,
        gt=0,
        description="How long training waits for an MLflow server that does not answer, before it goes on without it",
    )


class Trust(Settings):
    """Whom and what the machine trusts."""

    store_schemes: tuple[Scheme, ...] = Field(
        ("s3", "s3a", "gs", "gcs", "abfs", "abfss", "az"),
        description="Schemes of URLs that a store may have, as fsspec names them; a folder of this machine may always be one",
    )
    tracking_uris: tuple[str, ...] = Field(
        (), description="URIs of the MLflow servers and databases that a run may send to, besides that of MLFLOW_TRACKING_URI"
    )
    import_packages: tuple[str, ...] | None = Field(
        None,
        description="Packages, or modules, whose code settings may name; any when not set, none when empty",
    )
    keys: tuple[str, ...] = Field(
        (), description="Public keys whose signature an export must have to be used; any export is used where there are none"
    )
    signing_key: str | None = Field(
        None, description="File of the private key that exports made on this machine are signed with"
    )
    linked_folders: tuple[str, ...] = Field((), description="Folders that the links of a module folder may lead into")
    output_root: str | None = Field(
        None,
        pattern="^[/~]",
        description="Folder that every store and output must be in, links resolved; none sets no bound",
    )


class LibrarySettings(Settings):
    """Every setting of the library, by section."""

    limits: Limits = Field(Limits(), description="How much one input may ask of the machine")
    trust: Trust = Field(Trust(), description="Whom and what the machine trusts")


def library_settings() -> LibrarySettings:
    """The settings of the library, as the environment has them now.

    Returns:
        The same object until the environment or the file changes.

    Raises:
        SettingsError: a name is unknown or a value is wrong, in the environment or in the file; or the file cannot be read.
    """
    sections = tuple(f"{PREFIX}{section.upper()}_" for section in LibrarySettings.model_fields)
    found = tuple(sorted((name, os.environ[name]) for name in os.environ if name.startswith(sections)))
    path = os.environ.get(CONFIG)
    return _parsed(found, path, _stamp(path) if path else None)


def _stamp(path: str) -> tuple[int, int]:
    try:
        facts = os.stat(path)
    except OSError as error:
        raise SettingsError(f"{CONFIG}: cannot read {path} ({error.strerror}); name the file, or unset the variable") from error
    return facts.st_mtime_ns, facts.st_size


@lru_cache(maxsize=4)
def _parsed(variables: tuple[tuple[str, str], ...], path: str | None, _stamp: tuple[int, int] | None) -> LibrarySettings:
    values: dict[str, Any] = {}
    if path is not None:
        try:
            values = tomllib.loads(read_text(path, max_bytes=MAX_CONFIG_BYTES))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
            raise SettingsError(f"{CONFIG}: {path} is no TOML file that can be read ({error})") from error
        parse_settings(LibrarySettings, values, path)  # the fault is named where it stands
    return parse_settings(LibrarySettings, _with(values, dict(variables)), "environment")


def _with(values: Mapping[str, Any], variables: Mapping[str, str]) -> dict[str, Any]:
    """The file's values with those of the environment over them. A list has commas between its items."""
    merged = {section: dict(table) for section, table in values.items()}
    for variable, text in variables.items():
        section, _, name = variable.removeprefix(PREFIX).lower().partition("_")
        field = LibrarySettings.model_fields[section].default.__class__.model_fields.get(name)
        merged.setdefault(section, {})[name] = _items(text) if field is not None and _is_list(field.annotation) else text
    return merged


def _items(text: str) -> list[str]:
    return [item.strip() for item in text.split(",") if item.strip()]


def _is_list(annotation: Any) -> bool:
    if get_origin(annotation) is tuple:
        return True
    return isinstance(annotation, UnionType) and any(map(_is_list, get_args(annotation)))
