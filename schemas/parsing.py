"""Settings from YAML, JSON, mappings and `--set` entries, with errors that name every fault. No Paddle, no Prefect here."""

import copy
import difflib
import json
import types
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from hubflow.schemas.errors import SettingsError
from hubflow.schemas.files import read_text
from hubflow.schemas.urls import SECRET

AnySettings = TypeVar("AnySettings", bound=BaseModel)
_CHOICES = ("literal[", "dict[", "tuple[", "function-", "constrained-str")
"""How Pydantic's names of what a setting may be begin; they are no part of a setting's name."""


def parse_settings(model: type[AnySettings], values: object, source: str = "settings") -> AnySettings:
    """Validate `values` as `model`, reporting every fault at once with a suggestion for misspelt names.

    Raises:
        SettingsError: naming `source` and, for each fault, the setting, what was found and what is expected.
    """
    if not isinstance(values, dict):
        raise SettingsError(f"{source}: expected a mapping of settings, found {type(values).__name__}")
    try:
        return model.model_validate(values)
    except ValidationError as error:
        faults = [_fault(model, fault) for fault in error.errors() if not _is_of_another_choice(fault)]
        listed = "\n".join(f"  - {fault}" for fault in faults)
        raise SettingsError(f"{source}: {len(faults)} setting(s) are wrong\n{listed}") from None


def read_settings(path: str | Path) -> dict[str, Any]:
    """Values of a YAML or JSON settings file, not yet validated; relative paths in it are relative to the working directory.

    Raises:
        SettingsError: when the file is missing, is not YAML or JSON, or is not a mapping.
    """
    path = Path(path)
    kind = "JSON" if path.suffix == ".json" else "YAML"
    try:
        text = read_text(path, "utf-8-sig")
        values = json.loads(text) if kind == "JSON" else yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: settings cannot be read ({error}); expected a YAML or JSON file") from error
    except (yaml.YAMLError, json.JSONDecodeError) as error:
        raise SettingsError(f"{path}: not valid {kind}: {error}") from error
    if not isinstance(values, dict):
        raise SettingsError(f"{path}: expected a mapping of settings, found {type(values).__name__}")
    return values


def load_settings(model: type[AnySettings], path: str | Path) -> AnySettings:
    """Settings of a YAML or JSON file.

    Raises:
        SettingsError: when the file cannot be read, or naming every fault in it.
    """
    return parse_settings(model, read_settings(path), str(path))


def with_overrides(values: dict[str, Any], overrides: list[str]) -> dict[str, Any]:
    """Copy of `values` with `a.b=value` entries put in; each value is read as YAML.

    Raises:
        SettingsError: when an entry has no name or no `=`, goes below something that is not a mapping, or is not YAML.
    """
    result = copy.deepcopy(values)
    for entry in overrides:
        name, equals, text = entry.partition("=")
        if not equals or not name.strip():
            raise SettingsError(f"--set {entry}: expected NAME=VALUE, for example train.epochs=2")
        put_value(result, name.strip(), _yaml_value(entry, text), f"--set {entry}")
    return result


def put_value(values: dict[str, Any], name: str, value: Any, source: str) -> None:
    """Put a value at a dotted name into `values`, making the groups on the way.

    Raises:
        SettingsError: when the name goes below something that is not a mapping.
    """
    *parents, last = name.split(".")
    place = values
    for parent in parents:
        place = place.setdefault(parent, {})
        if not isinstance(place, dict):
            raise SettingsError(f"{source}: {parent} is not a group of settings")
    place[last] = value


def _yaml_value(entry: str, text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SettingsError(f"--set {entry}: {text!r} is no YAML value; quote it, as in NAME='\"text\"'") from error


def close_name(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The one of `known` that `name` most likely means; `cutoff` says how alike they must be, 0 to 1."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)), None)


def _is_of_another_choice(fault: Any) -> bool:
    """Whether a mapping was also held against a word that stands in its place, such as `balanced`: no fault of its own."""
    return isinstance(fault["input"], dict) and str(fault["loc"][-1:]).startswith('("literal[')


def _fault(model: type[BaseModel], fault: Any) -> str:
    location = [str(part) for part in fault["loc"] if not str(part).startswith(_CHOICES)]
    groups, shown = _walk(model, location)
    name = ".".join(shown) or "settings"
    if fault["type"] == "extra_forbidden":
        return f"{name}: unknown setting; {_hint(location[-1], _names(_walk(model, location[:-1])[0]))}"
    if fault["type"] == "missing":
        return f"{name}: is required"
    if fault["type"] == "model_type":
        return f"{name}: expected a group of settings ({', '.join(_names(groups))}), found {fault['input']!r}"
    if fault["type"] in ("union_tag_invalid", "union_tag_not_found", "model_attributes_type"):
        return _fault_of_choice(name, fault, [tag for tag in map(_tag, groups) if tag is not None])
    message = fault["msg"].removeprefix("Value error, ")
    is_shown = not isinstance(fault["input"], dict) and fault["type"] != SECRET
    return f"{name}: {message} (found {fault['input']!r})" if is_shown else f"{name}: {message}"


def _fault_of_choice(name: str, fault: Any, known: list[str]) -> str:
    """What is wrong where a name among its settings chooses the group."""
    if fault["type"] == "union_tag_not_found":
        return f"{name}.name: is required; one of {', '.join(known)}"
    if fault["type"] == "model_attributes_type":
        return f"{name}: expected a name, or a group of settings with one ({', '.join(known)}), found {fault['input']!r}"
    found = fault["ctx"]["tag"]
    close = close_name(found, known)
    meant = f"; did you mean {close!r}?" if close else "."
    return f"{name}: {found!r} is not known{meant} Known: {', '.join(known)}"


def _hint(name: str, known: list[str]) -> str:
    close = close_name(name, known)
    return f"did you mean {close!r}?" if close else f"known here: {', '.join(sorted(known))}"


def _walk(model: type[BaseModel], location: list[str]) -> tuple[list[type[BaseModel]], list[str]]:
    """The groups of settings that `location` leads to, and the names on the way as they are written in a file.

    Where a name among its settings chooses a group, Pydantic's location has that name too.
    """
    groups: list[type[BaseModel]] = [model]
    shown: list[str] = []
    for part in location:
        chosen = [group for group in groups if len(groups) > 1 and _tag(group) == part]
        if not chosen:
            shown.append(part)
        fields = [group.model_fields[part].annotation for group in groups if part in group.model_fields]
        groups = chosen or [group for annotation in fields for group in _groups(annotation)]
    return groups, shown


def _names(groups: list[type[BaseModel]]) -> list[str]:
    return list(groups[0].model_fields) if len(groups) == 1 else []


def _tag(group: type[BaseModel]) -> str | None:
    """What `name` must be to choose the group; None where nothing does."""
    default = group.model_fields["name"].default if "name" in group.model_fields else None
    return default if isinstance(default, str) else None


def _groups(annotation: Any) -> list[type[BaseModel]]:
    """The groups of settings that a field takes: several where a name among them chooses one, such as an optimizer's."""
    if get_origin(annotation) is Annotated:
        return _groups(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [group for part in get_args(annotation) for group in _groups(part)]
    return [annotation] if isinstance(annotation, type) and issubclass(annotation, BaseModel) else []
