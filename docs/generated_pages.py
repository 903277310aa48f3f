"""A hook of mkdocs: pages that are made from the code while the site is built, so that they cannot become outdated.

It makes the reference of the settings (from the pydantic models), of the command line (from its own help), and pages of files
that lie outside of `docs/`.
"""

import importlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from hubflow.schemas.deployment import NightlySettings, PruneSettings
from hubflow.schemas.library import LibrarySettings
from hubflow.schemas.settings import FineTuneSettings, PredictSettings
from hubflow.schemas.sweep import SweepSettings

KINDS = {"keep-running": ' title="in a terminal of its own"'}
"""What a reader is shown of the word after `bash`, by which the tests tell blocks apart."""
PROJECT = Path(__file__).parents[1]
WIDTH = 100
HUB = (
    "This is the Task API, with export and prediction. Import it with `from hubflow import hub`. [Write the training loop "
    "yourself](../../how-to/task-api.md) shows these together."
)
TESTING = (
    "What tests of flows need. [Test your flow](../../how-to/testing.md) shows it, with the fixtures that pytest finds by "
    "itself; `hubflow.testing.strategies` has the hypothesis strategies `valid(contract)` and `broken(contract)`."
)
STAGES = (
    "Each stage is a Prefect task under its own name: `from hubflow.stages import load_dataset`. Call it in a flow, or use "
    "`.submit`, `.map` and `.with_options`. `.fn` is the plain function, for tests and for other engines; it needs no server."
)
MODELS: dict[str, tuple[type[BaseModel], str, str]] = {
    "fine-tune": (
        FineTuneSettings,
        "Settings of a fine-tune",
        "These are the settings of `hubflow fine-tune` and of the flow `fine-tune`. `hubflow schema` prints them as a JSON "
        "schema.",
    ),
    "nightly": (
        NightlySettings,
        "Settings of a nightly run",
        "A nightly run has all [settings of a fine-tune](fine-tune.md), and those on this page. They are the settings of "
        "`hubflow nightly` and of the flow `nightly`.",
    ),
    "predict": (
        PredictSettings,
        "Settings of a prediction",
        "These are the settings of the flow `predict`. `hubflow predict` takes the export, the data and the most used ones "
        "as arguments and options, and all others by `--set`.",
    ),
    "sweep": (
        SweepSettings,
        "Settings of a sweep",
        "These are the settings of `hubflow sweep` and of the flow `sweep`. [Sweeps](../../how-to/sweep.md) explains them.",
    ),
    "prune": (PruneSettings, "Settings of pruning", "`hubflow prune` takes these settings by `--set`."),
    "library": (
        LibrarySettings,
        "Settings of the library",
        "The owner of a machine sets what every run on it may do. A run cannot change these settings. They come from the "
        "environment (`HUBFLOW_LIMITS_MAX_IMAGE_PIXELS=50000000`; a list has commas between its items), and from the TOML file "
        "that `HUBFLOW_CONFIG` names. The environment overrides the file. [Security](../../explanation/security.md) explains "
        "who sets them and why.",
    ),
}


def on_files(files: Any, config: Any) -> Any:
    """Add the made pages to those of the folder."""
    from mkdocs.structure.files import File

    for place, text in pages().items():
        files.append(File.generated(config, place, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Show what the tests read: a word after `bash` becomes a title, or nothing."""
    return re.sub(r"^```bash ([a-z-]+)$", lambda found: f"```bash{KINDS.get(found[1], '')}", markdown, flags=re.MULTILINE)


def pages() -> dict[str, str]:
    """Every made page, by its place under `docs/`."""
    made = {f"reference/settings/{name}.md": settings_page(name) for name in MODELS}
    made["reference/command-line.md"] = command_line_page()
    made["reference/api/hub.md"] = api_page("hubflow.hub", HUB)
    made["reference/api/stages.md"] = api_page("hubflow.stages", STAGES)
    made["reference/api/testing.md"] = api_page("hubflow.testing", TESTING)
    made["reference/benchmarks.md"] = outside_page("benchmarks/RESULTS.md")
    made["reference/changelog.md"] = outside_page("CHANGELOG.md")
    return made


# Settings


def settings_page(name: str) -> str:
    """The page of one settings model: a table for each section, every setting under its full name."""
    model, title, text = MODELS[name]
    own = set(model.model_fields) - set(FineTuneSettings.model_fields) if name == "nightly" else None
    intro = "A setting without a default must be given. `none` as a default means that the setting is not set."
    return "\n".join([f"# {title}\n", text, "", intro, "", *_sections(model, "", own)])


def settings_of(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str]]:
    """The full name and the description of each setting below a model, those of optimizers and schedules excepted."""
    for name, field in model.model_fields.items():
        nested = _models_in(field.annotation)
        yield prefix + name, field.description or (_first_line(nested[0]) if nested else "")
        if len(nested) == 1:
            yield from settings_of(nested[0], f"{prefix}{name}.")


def _sections(model: type[BaseModel], prefix: str, only: set[str] | None = None) -> Iterator[str]:
    schema = model.model_json_schema()
    definitions = schema.get("$defs", {})
    required = schema.get("required", [])
    yield "| setting | meaning | default | values |"
    yield "|---|---|---|---|"
    below: list[tuple[str, list[type[BaseModel]]]] = []
    for name, field in model.model_fields.items():
        if only is not None and name not in only:
            continue
        described = schema["properties"][name]
        nested = _models_in(field.annotation)
        meaning = field.description or (_first_line(nested[0]) if nested else "")
        if valued := _models_of_values(field.annotation):
            below.append((name, valued))
        if nested and nested[0] is not FineTuneSettings:
            below.append((name, nested))
        full, default = prefix + name, _default(field, name in required, nested)
        if nested == [FineTuneSettings]:
            values = "[settings of a fine-tune](fine-tune.md), or the name of their file"
        else:
            values = f"[settings](#{_anchor(full)})" if nested else _values(described, definitions)
        yield f"| `{full}` | {_cell(meaning)} | {default} | {values} |"
    yield ""
    for name, nested in below:
        full = prefix + name
        yield f"## {full} {{ #{_anchor(full)} }}\n"
        if len(nested) == 1:
            yield _sentence(nested[0]) + "\n"
            is_mapping = bool(_models_of_values(model.model_fields[name].annotation))
            yield from _sections(nested[0], f"{full}.NAME." if is_mapping else f"{full}.")
        else:
            yield from _alternatives(nested)


def _alternatives(models: list[type[BaseModel]]) -> Iterator[str]:
    yield "A name, or a mapping with `name` and arguments of its own:\n"
    yield "| name | what it is | arguments and their defaults |"
    yield "|---|---|---|"
    for model in models:
        name = str(getattr(model.model_fields.get("name"), "default", None) or model.__name__)
        name = "" if name == str(PydanticUndefined) else name
        own = {key: one.get_default(call_default_factory=True) for key, one in model.model_fields.items() if key != "name"}
        arguments = [f"`{key}`: {_shown(value)}" for key, value in own.items()]
        yield f"| {f'`{name}`' if name else ''} | {_cell(_first_line(model))} | {', '.join(arguments)} |"
    yield ""


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """The settings models of an annotation: one of a section, several of alternatives."""
    if isinstance(annotation, type):
        return [annotation] if issubclass(annotation, BaseModel) else []
    if getattr(annotation, "__origin__", None) in (dict, tuple, list):
        return []
    found: list[type[BaseModel]] = []
    for inner in getattr(annotation, "__args__", ()):
        found += [one for one in _models_in(inner) if one not in found]
    return found


def _models_of_values(annotation: Any) -> list[type[BaseModel]]:
    """The settings model of a mapping's values."""
    if getattr(annotation, "__origin__", None) is not dict:
        return []
    return _models_in(annotation.__args__[1])


def _default(field: Any, is_required: bool, nested: list[Any]) -> str:
    if is_required:
        return "must be given"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return _shown(getattr(value, "name", None)) if len(nested) > 1 else ""
    return _shown(value)


def _shown(value: Any) -> str:
    if value is None or value in ((), {}):
        return "none"
    if value is PydanticUndefined:
        return "must be given"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, int):
        return f"`{value:,}`".replace(",", "_") if value >= 100_000 else f"`{value}`"  # noqa: PLR2004
    if isinstance(value, tuple):
        return ", ".join(_shown(one) for one in value)
    return f"`{value}`"


def _values(schema: dict[str, Any], definitions: dict[str, Any]) -> str:  # noqa: PLR0911  # one for each form
    """What a setting takes, in words: choices, or a type with its range."""
    if "$ref" in schema:
        return _values(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    if "enum" in schema:
        return ", ".join(f"`{_text(one)}`" for one in schema["enum"] if one is not None)
    if "const" in schema:
        return f"`{_text(schema['const'])}`"
    for several in ("anyOf", "oneOf", "allOf"):
        if several in schema:
            words = [_values(one, definitions) for one in schema[several] if one.get("type") != "null"]
            return " or ".join(dict.fromkeys(filter(None, words)))
    kind = schema.get("type")
    if kind == "array":
        inner = _values(schema.get("items", schema.get("prefixItems", [{}])[0]), definitions)
        return f"list of {inner}" if inner else "list"
    if "properties" in schema:
        return "settings"
    if kind == "object":
        values = schema.get("additionalProperties")
        return f"mapping to {_values(values, definitions)}" if isinstance(values, dict) else "mapping"
    word = {"integer": "integer", "number": "number", "boolean": "`true`, `false`", "string": "text"}.get(str(kind), "")
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    bounds = [f"{sign} {_bound(schema[name])}" for name, sign in signs.items() if name in schema]
    return f"{word} {', '.join(bounds)}".strip()


def _bound(value: float) -> str:
    return f"{int(value):_}" if float(value).is_integer() else f"{value:g}"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _anchor(full: str) -> str:
    return full.replace(".", "-")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def _first_line(model: type[BaseModel]) -> str:
    return (model.__doc__ or "").strip().split("\n")[0]


def _sentence(model: type[BaseModel]) -> str:
    return _cell(" ".join((model.__doc__ or "").split()))


# The command line


def command_line_page() -> str:
    """Each command with its own help, as the terminal shows it."""
    import typer.main

    from hubflow.cli.main import app

    intro = (
        "# Command line\n\nThis is the help of each command, as `hubflow COMMAND --help` prints it. Each command takes "
        "`--json`, and then ends with one machine-readable line on standard output; all else goes to standard error. A fault "
        'is a message and the exit code 2, with `--json` also a line `{"error": …}`.\n'
    )
    return intro + "\n".join(_commands(typer.main.get_command(app), "hubflow", None))


def _commands(command: Any, name: str, parent: Any) -> Iterator[str]:
    context = command.context_class(command, info_name=name, parent=parent, max_content_width=WIDTH, terminal_width=WIDTH)
    yield f"## {context.command_path}\n\n```text\n{_plain(command.get_help(context))}\n```\n"
    for inner in sorted(getattr(command, "commands", {})):
        yield from _commands(command.commands[inner], inner, context)


def _plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text).strip()


# The API


def api_page(package: str, text: str) -> str:
    """What a package exports, each under the module that defines it, where mkdocstrings finds it."""
    exported = importlib.import_module(package)
    homes = {name: getattr(exported, name) for name in exported.__all__}
    blocks = [f"::: {getattr(one, 'fn', one).__module__}.{name}\n" for name, one in homes.items()]
    return "\n".join([f"# {package}\n", text, "", *blocks])


# Files of other folders


def outside_page(place: str) -> str:
    """A file of another folder as a page: its links to pages lead to them, its other links become text."""
    text = (PROJECT / place).read_text(encoding="utf-8")

    def link(found: re.Match[str]) -> str:
        label, target = found[1], found[2]
        if "://" in target:
            return found[0]
        inner = re.sub(r"^(\.\./)?docs/", "../", target)
        return f"[{label}]({inner})" if inner != target else label

    return re.sub(r"\[([^\]]*)\]\(([^)\s]+)\)", link, text)
