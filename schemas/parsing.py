"""Settings from YAML, JSON, mappings and `--set` entries, with errors that name every fault."""

import copy
import difflib
import errno
import json
import re
import types
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from hubflow.errors import SettingsError
from hubflow.files import read_text

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
Policy = Literal["ignore", "warn", "fail"]
"""What is done about a fault: nothing, it is said and written down, or the stage fails."""
SECRET = "secret_in_url"  # noqa: S105
"""Type of a Pydantic fault whose value may hold a secret: it is reported without the value."""


def rgb_of(colour: Any) -> tuple[int, int, int]:
    """Red, green and blue, 0 to 255, of a colour's name, of `#rrggbb`, or of the three numbers themselves.

    Raises:
        ValueError: when it is no colour.
    """
    from PIL import ImageColor

    expected = f"expected a colour: a name (white), a hex value in quotes ('#ffffff') or three numbers, found {colour!r}"
    if isinstance(colour, str):
        try:
            found = tuple(ImageColor.getrgb(colour.strip()))
        except ValueError:
            raise ValueError(expected) from None
    else:
        found = tuple(colour) if isinstance(colour, list | tuple) else ()
    is_byte = [isinstance(part, int) and not isinstance(part, bool) and 0 <= part <= 255 for part in found]  # noqa: PLR2004
    if len(found) != 3 or not all(is_byte):  # noqa: PLR2004
        raise ValueError(expected)
    red, green, blue = found
    return red, green, blue


def _require_colour(colour: Any) -> Any:
    rgb_of(colour)
    return colour


Byte = Annotated[int, Field(ge=0, le=255)]
Colour = Annotated[str | tuple[Byte, Byte, Byte], BeforeValidator(_require_colour)]
"""A colour: its name, `#rrggbb`, or red, green and blue from 0 to 255."""


class Settings(BaseModel):
    """Base of all settings: unknown names are refused, values do not change."""

    model_config = ConfigDict(frozen=True, extra="forbid")


AnySettings = TypeVar("AnySettings", bound=BaseModel)
_CHOICES = ("literal[", "dict[", "tuple[", "function-", "constrained-str")
"""How Pydantic's names of what a setting may be begin; they are no part of a setting's name."""
MAX_SHOWN, MAX_FAULTS = 300, 100
"""Characters of a value, and faults, that a message shows."""
MAX_NUMBER_CHARS = 1_000
"""Of a number in YAML: Python takes time that grows with the square of the length to read some."""


def parse_settings(model: type[AnySettings], values: object, source: str = "settings") -> AnySettings:
    """Validate `values` as `model`, reporting every fault at once with a suggestion for misspelt names.

    Args:
        model: class of the settings.
        values: settings by name, in groups.
        source: where they are from, named in the error.

    Returns:
        The settings.

    Raises:
        SettingsError: naming `source` and, for each fault, the setting, what was found and what is expected.

    Example:
        >>> from hubflow.schemas import TrainSettings
        >>> parse_settings(TrainSettings, {"epochs": 2, "schedule": "cosine"}).schedule
        Cosine(name='cosine')
        >>> parse_settings(TrainSettings, {"epoch": 2}, "my.yaml")
        Traceback (most recent call last):
        hubflow.errors.SettingsError: my.yaml: 1 setting(s) are wrong
          - epoch: unknown setting; did you mean 'epochs'?
    """
    if not isinstance(values, dict):
        raise SettingsError(f"{source}: expected a mapping of settings, found {type(values).__name__}")
    try:
        return model.model_validate(values)
    except ValidationError as error:
        found = error.errors()
        secrets = [_path(fault) for fault in found if fault["type"] == SECRET]
        hidden = {path[:length] for path in secrets for length in range(len(path) + 1)}  # in a union too
        faults = [
            fault for fault in found if fault["type"] == SECRET or not (_is_of_another_choice(fault) or _path(fault) in hidden)
        ]
        listed = "\n".join(f"  - {_fault(model, fault)}" for fault in faults[:MAX_FAULTS])
        more = f"\n  … ({len(faults) - MAX_FAULTS} more)" if len(faults) > MAX_FAULTS else ""
        raise SettingsError(f"{source}: {len(faults)} setting(s) are wrong\n{listed}{more}") from None


def read_settings(path: str | Path) -> dict[str, Any]:
    """Read the values of a YAML or JSON settings file, not yet validated.

    Relative paths in it are relative to the working directory.

    Args:
        path: the file; JSON where it ends in `.json`, else YAML.

    Returns:
        Settings by name, in groups.

    Raises:
        SettingsError: when the file is missing, is not YAML or JSON, is not a mapping, or exceeds a limit of the library.
    """
    path = Path(path)
    kind, most = "JSON" if path.suffix == ".json" else "YAML", _limits().max_settings_bytes
    try:
        text = read_text(path, "utf-8-sig", most)
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno == errno.EFBIG:
            raise SettingsError(f"{path}: more than {most:,} bytes, limits.max_settings_bytes; expected settings") from error
        raise SettingsError(f"{path}: settings cannot be read ({error}); expected a YAML or JSON file") from error
    try:
        values = _json_value(text) if kind == "JSON" else _yaml_value(text)
    except ValueError as error:
        raise SettingsError(f"{path}: not valid {kind}: {error}") from error
    if not isinstance(values, dict):
        raise SettingsError(f"{path}: expected a mapping of settings, found {type(values).__name__}")
    return values


def load_settings(model: type[AnySettings], path: str | Path) -> AnySettings:
    """Read and validate the settings of a YAML or JSON file.

    Args:
        model: class of the settings.
        path: the file; JSON where it ends in `.json`, else YAML.

    Returns:
        The settings.

    Raises:
        SettingsError: when the file cannot be read, or naming every fault in it.
    """
    return parse_settings(model, read_settings(path), str(path))


def with_overrides(values: dict[str, Any], overrides: list[str]) -> dict[str, Any]:
    """Copy of `values` with `a.b=value` entries put in; each value is read as YAML.

    Args:
        values: settings by name, in groups; they stay as they are.
        overrides: entries `name=value`, the name with dots between groups.

    Returns:
        The copy.

    Raises:
        SettingsError: when an entry has no name or no `=`, goes below something that is not a mapping, or is not YAML.

    Example:
        >>> with_overrides({"name": "a", "train": {"epochs": 3}}, ["train.epochs=2", "train.optimizer=sgd"])
        {'name': 'a', 'train': {'epochs': 2, 'optimizer': 'sgd'}}
    """
    result = copy.deepcopy(values)
    for entry in overrides:
        name, equals, text = entry.partition("=")
        shown = shortened(entry)
        if not equals or not name.strip():
            raise SettingsError(f"--set {shown}: expected NAME=VALUE, for example train.epochs=2")
        try:
            value = _yaml_value(text)
        except ValueError as error:
            remedy = "quote it, as in NAME='\"text\"'"
            raise SettingsError(f"--set {shown}: {shortened(text)!r} is no YAML value ({error}); {remedy}") from error
        put_value(result, name.strip(), value, f"--set {shown}")
    return result


def put_value(values: dict[str, Any], name: str, value: Any, source: str) -> None:
    """Put a value at a dotted name into `values`, making the groups on the way.

    Raises:
        SettingsError: when the name goes below something that is not a mapping, or has too many parts.
    """
    *parents, last = name.split(".")
    if len(parents) > _limits().max_nesting:
        raise SettingsError(f"{source}: more than {_limits().max_nesting} groups within one another, limits.max_nesting")
    group = values
    for parent in parents:
        group = group.setdefault(parent, {})
        if not isinstance(group, dict):
            raise SettingsError(f"{source}: {parent} is not a group of settings")
    group[last] = value


def merged(model: type[BaseModel], values: Mapping[str, Any], part: Mapping[str, Any]) -> dict[str, Any]:
    """Copy of `values` with a part of settings put in, group by group; texts, numbers and lists are replaced.

    A group that is chosen by a name in it, such as an optimizer, is replaced where the part names another.

    Args:
        model: class of the settings.
        values: settings by name, in groups.
        part: the settings that replace theirs.

    Returns:
        The copy; neither is validated.

    Example:
        >>> from hubflow.schemas import FineTuneSettings
        >>> values = {"train": {"epochs": 3, "optimizer": {"name": "adamw", "beta1": 0.8}}}
        >>> merged(FineTuneSettings, values, {"train": {"optimizer": {"beta1": 0.7}}})
        {'train': {'epochs': 3, 'optimizer': {'name': 'adamw', 'beta1': 0.7}}}
        >>> merged(FineTuneSettings, values, {"train": {"optimizer": {"name": "sgd"}}})
        {'train': {'epochs': 3, 'optimizer': {'name': 'sgd'}}}
    """
    return _merged([model], values, part)


def _merged(groups: list[type[BaseModel]], values: Mapping[str, Any], part: Mapping[str, Any]) -> dict[str, Any]:
    if len(groups) > 1 and part.get("name", values.get("name")) != values.get("name"):
        return copy.deepcopy(dict(part))
    result = copy.deepcopy(dict(values))
    for name, value in part.items():
        inner = [
            found for group in groups if name in group.model_fields for found in _groups(group.model_fields[name].annotation)
        ]
        kept: Any = result.get(name)
        if isinstance(kept, str) and len(inner) > 1:  # the short form of a group that is chosen by its name
            kept = {"name": kept}
        is_group = bool(inner) and isinstance(kept, dict) and isinstance(value, dict)
        result[name] = _merged(inner, kept, value) if is_group else copy.deepcopy(value)
    return result


def is_complete(model: type[BaseModel], values: Mapping[str, Any]) -> bool:
    """Whether no setting that is required is missing, in `values` or in a group of them.

    Example:
        >>> from hubflow.schemas import PredictSettings
        >>> is_complete(PredictSettings, {"data": "rows.csv"})
        False
    """
    for name, field in model.model_fields.items():
        value = values.get(name)
        if field.is_required() and name not in values:
            return False
        groups = _groups(field.annotation)
        if len(groups) == 1 and isinstance(value, dict) and not is_complete(groups[0], value):
            return False
    return True


def _limits() -> Any:
    from hubflow.schemas.library import library_settings  # which reads its own settings with this module

    return library_settings().limits


def _json_value(text: str) -> Any:
    """What a text of JSON holds.

    Raises:
        ValueError: saying what is wrong with it.
    """
    require_flat(text, _limits().max_nesting)
    return json.loads(text)


def require_flat(text: str, most: int) -> None:
    """Refuse a text of JSON before it is read when its lists and objects are nested too deeply.

    Raises:
        ValueError: naming the limit.
    """
    if text.count("[") + text.count("{") <= most:
        return
    depth = 0
    for part in _BRACKETS.finditer(text):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(part[0], 0)  # a string is none of these
        if depth > most:
            raise ValueError(f"lists and objects are nested in more than {most} levels, limits.max_nesting")


_BRACKETS = re.compile(r'"(?:[^"\\]|\\.)*+"?|[\[\]{}]', re.DOTALL)


def _yaml_value(text: str) -> Any:
    """What a text of YAML holds.

    Raises:
        ValueError: saying what is wrong with it.
    """
    limits = _limits()
    try:
        return _Loader(text, limits.max_nesting, limits.max_settings_bytes).get_single_data()
    except yaml.YAMLError as error:
        raise ValueError(shortened(str(error), 3 * MAX_SHOWN)) from error
    except (ValueError, ArithmeticError, LookupError, AttributeError, TypeError, RecursionError) as error:
        # PyYAML raises these where a value is not what its tag says, as in `!!timestamp x` or 2026-99-99.
        raise ValueError(f"a value is not of its type ({shortened(str(error))})") from error


class _Loader(yaml.SafeLoader):
    """YAML whose nesting is bounded, and its size where each alias stands for a copy of what it names."""

    def __init__(self, text: str, max_nesting: int, max_bytes: int) -> None:
        self._text, self._max_nesting, self._max_bytes = text, max_nesting, max_bytes
        self._depth = 0
        self._sizes: dict[int, tuple[int, int]] = {}
        """Of each node that is read, by identity: the characters and the levels that it stands for."""
        super().__init__(text)

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Read one node; the nodes in it are read before it is."""
        is_alias = self.check_event(yaml.AliasEvent)
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        self._depth += 1
        if self._depth > self._max_nesting + 1:
            raise self._exceeded(mark, f"nested in more than {self._max_nesting} levels", "max_nesting")
        node: Any = super().compose_node(parent, index)
        self._depth -= 1
        if is_alias:
            if id(node) not in self._sizes:
                raise yaml.composer.ComposerError(None, None, "an alias stands within what it names", mark)
            return node
        if isinstance(node, yaml.ScalarNode):
            size, levels = len(node.value) + 1, 0
        else:
            inner = [child for pair in node.value for child in (pair if isinstance(pair, tuple) else (pair,))]
            sizes = [self._sizes[id(child)] for child in inner]
            size, levels = 1 + sum(one for one, _ in sizes), 1 + max((one for _, one in sizes), default=0)
        if size > self._max_bytes:
            raise self._exceeded(mark, f"with its aliases more than {self._max_bytes:,} characters", "max_settings_bytes")
        if levels > self._max_nesting:
            raise self._exceeded(mark, f"with its aliases nested in more than {self._max_nesting} levels", "max_nesting")
        self._sizes[id(node)] = size, levels
        return node

    def construct_number(self, node: Any) -> Any:
        """A number, unless it is too long to be one."""
        if len(node.value) > MAX_NUMBER_CHARS:
            raise yaml.constructor.ConstructorError(None, None, f"a number of {len(node.value):,} characters", node.start_mark)
        is_float = node.tag.endswith(":float")
        return self.construct_yaml_float(node) if is_float else self.construct_yaml_int(node)

    def _exceeded(self, mark: Any, what: str, limit: str) -> yaml.YAMLError:
        return yaml.composer.ComposerError(None, None, f"{what}, limits.{limit}", mark)


for _tag_of_numbers in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float"):
    _Loader.add_constructor(_tag_of_numbers, _Loader.construct_number)


def shortened(text: str, most: int = MAX_SHOWN) -> str:
    """The beginning of a text that is too long for a message."""
    return text if len(text) <= most else f"{text[:most]}… ({len(text) - most:,} more characters)"


def close_name(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The one of `known` that `name` most likely means; `cutoff` says how alike they must be, 0 to 1."""
    return next(iter(difflib.get_close_matches(name[:MAX_SHOWN], list(known), n=1, cutoff=cutoff)), None)


def _is_of_another_choice(fault: Any) -> bool:
    """Whether a mapping was also held against a word that stands in its place, such as `balanced`: no fault of its own."""
    return isinstance(fault["input"], dict) and str(fault["loc"][-1:]).startswith('("literal[')


def _path(fault: Any) -> tuple[str, ...]:
    return tuple(str(part) for part in fault["loc"] if not str(part).startswith(_CHOICES))


def _fault(model: type[BaseModel], fault: Any) -> str:
    location = list(_path(fault))
    groups, shown = _walk(model, location)
    name = shortened(".".join(shown)) or "settings"
    if fault["type"] == "extra_forbidden":
        return f"{name}: unknown setting; {_hint(location[-1], _names(_walk(model, location[:-1])[0]))}"
    if fault["type"] == "missing":
        return f"{name}: is required"
    if fault["type"] == "model_type":
        return f"{name}: expected a group of settings ({', '.join(_names(groups))}), found {_shown(fault)}"
    if fault["type"] in ("union_tag_invalid", "union_tag_not_found", "model_attributes_type"):
        return _fault_of_choice(name, fault, [tag for tag in map(_tag, groups) if tag is not None])
    message = fault["msg"].removeprefix("Value error, ")
    is_shown = not isinstance(fault["input"], dict) and fault["type"] != SECRET
    return f"{name}: {message} (found {_shown(fault)})" if is_shown else f"{name}: {message}"


def _shown(fault: Any) -> str:
    return shortened(repr(fault["input"]))


def _fault_of_choice(name: str, fault: Any, known: list[str]) -> str:
    """What is wrong where a name among its settings chooses the group."""
    if fault["type"] == "union_tag_not_found":
        return f"{name}.name: is required; one of {', '.join(known)}"
    if fault["type"] == "model_attributes_type":
        return f"{name}: expected a name, or a group of settings with one ({', '.join(known)}), found {_shown(fault)}"
    found = shortened(fault["ctx"]["tag"])
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
