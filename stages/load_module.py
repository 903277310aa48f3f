"""Stage load_module: fetch a pretrained module by name and keep its files in the store."""

import json
import shutil
from pathlib import Path

from hubflow.errors import DownloadError, ModuleError
from hubflow.modules.registry import own_file
from hubflow.orchestration.tasks import stage
from hubflow.schemas.references import ModuleRef
from hubflow.schemas.settings import ModuleSpec
from hubflow.store.store import Artifact, Store, content_key, file_sha256

FORMAT_VERSION = 2
KEPT = ("*.json", "*.txt", "*.safetensors", "*.bin", "*.pdparams", "*.model")


def _describe(module: ModuleRef) -> str:
    size = f"up to {module.max_positions} tokens" if module.max_positions else f"{module.image_size} pixels"
    weights = "pretrained" if module.pretrained else "fresh weights"
    pooled = ", no pooler: pooled_output is the first token" if module.pooled_output == "first token" else ""
    title = f"{module.name}: {module.architecture} ({module.module_kind}), {weights}, {size}{pooled}"
    return f"{title}\n\n```json\n{_json(module)}\n```"


@stage(_describe, retry_on=(DownloadError,))
def load_module(spec: ModuleSpec, store: str, reuse: bool = True) -> ModuleRef:
    """Fetch a pretrained module by name and keep its files in the store.

    Args:
        spec: name and revision of the module, and how its context is built.
        store: folder, or URL, of the store.
        reuse: take what the store already holds for the same content and settings.

    Returns:
        Reference to the module's files, with its architecture and its limits.

    Raises:
        ModuleError: for an unknown name or architecture, `max_seq_len` or a number of config.json out of range, a file beyond a
            limit, a link out of the folder, or a folder without weights.
        DownloadError: when the files cannot be fetched or fail their checksum.
    """
    from hubflow.modules.download import resolve_module
    from hubflow.modules.module import ImageConfig, check_max_seq_len, module_facts, read_config

    folder = resolve_module(spec.name, spec.revision, spec.pretrained)
    files = _files(folder, spec.pretrained)
    if spec.pretrained and not any(_is_weights(file) for file in files):
        raise ModuleError(
            f"{folder}: no weights (model.safetensors, *.bin or *.pdparams); add them, or set pretrained: false for fresh ones"
        )
    config = read_config(folder, spec.pretrained)
    if not isinstance(config, ImageConfig):
        try:
            check_max_seq_len(config, spec.max_seq_len)
        except ModuleError as error:
            raise ModuleError(f"module {spec.name}: {error}; set module.max_seq_len to one of them") from error
    key = content_key(
        "load_module", FORMAT_VERSION, spec.name, spec.pretrained, {file.name: file_sha256(file) for file in files}
    )
    opened = Store(store)
    artifact = opened.find("modules", key) if reuse else None
    if artifact is None:
        with opened.create("modules", key) as draft:
            for file in files:
                shutil.copyfile(file, draft.folder / file.name)
            draft.facts |= {"name": spec.name, "pretrained": spec.pretrained, **module_facts(config)}
        artifact = opened.load("modules", key)
    return _reference(artifact)


def _reference(artifact: Artifact) -> ModuleRef:
    return ModuleRef(path=artifact.path, sha256=artifact.sha256, **artifact.facts)


def _files(folder: Path, pretrained: bool) -> list[Path]:
    files = {own_file(file) for pattern in KEPT for file in folder.glob(pattern) if file.is_file()}
    files -= {folder / "checksums.json", folder / "manifest.json"}
    kept = [file for file in sorted(files) if pretrained or not _is_weights(file)]
    if any(file.suffix == ".safetensors" for file in kept):
        kept = [file for file in kept if file.suffix not in (".bin", ".pdparams")]
    return kept


def _is_weights(file: Path) -> bool:
    return file.suffix in (".safetensors", ".bin", ".pdparams")


def _json(module: ModuleRef) -> str:
    return json.dumps(module.model_dump(), indent=1)
