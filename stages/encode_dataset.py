"""Stage encode_dataset: turn accepted rows into model inputs, memory-mapped and found again by content."""

from pathlib import Path

import pyarrow.parquet as pq

from hubflow.console import progress_bar
from hubflow.data.encoding import ENCODERS, EncodeContext
from hubflow.data.encoding_monitor import EncodingMonitor
from hubflow.errors import SettingsError
from hubflow.modules.images import ImageRules
from hubflow.orchestration.artifacts import publish_encoding
from hubflow.orchestration.tasks import stage
from hubflow.schemas.data_checks import DataChecks
from hubflow.schemas.labels import LabelMap
from hubflow.schemas.parsing import rgb_of
from hubflow.schemas.references import DatasetRef, EncodedRef, ModuleRef
from hubflow.schemas.settings import ModuleSpec
from hubflow.store.store import Artifact, Store, content_key

FORMAT_VERSION = 4


def _describe(encoded: EncodedRef) -> str:
    size = f"at most {encoded.max_seq_len} tokens" if encoded.max_seq_len else f"{encoded.image_size} pixels"
    rows = ", ".join(f"{count} {split}" for split, count in encoded.dataset.rows.items())
    return f"{rows} rows, {size}"


@stage(_describe, label="encode")
def encode_dataset(
    dataset: DatasetRef,
    module: ModuleRef,
    spec: ModuleSpec,
    store: str,
    reuse: bool = True,
    checks: DataChecks = DataChecks(),  # noqa: B008  # frozen
    max_invalid_fraction: float = 0.0,
) -> EncodedRef:
    """Turn accepted rows into model inputs (`EncodedRows`): token ids by the module's own tokenizer, or pixels at its size.

    Text rows have `input_ids` and `segment_ids` `[tokens]`; images have `uint8` pixels `[3, size, size]`. Every image is
    decoded, once, to what a person sees (see `hubflow.modules.images`). Images that do not decode are quarantined in
    `quarantine/<key>/<split>.parquet` of the store. What max_seq_len cuts off is counted, and what was done to images; sizes
    and channel means of images are compared with those of the last data set. The findings are published as an artifact, and
    kept in `data-reports/<key>` of the store.

    Args:
        dataset: the accepted rows.
        module: whose tokenizer or image size is used.
        spec: settings of the module: `max_seq_len` in tokens, `image_size` in pixels.
        store: folder, or URL, of the store.
        reuse: take what the store already holds for the same content and settings.
        checks: what is done about rows that are cut and images that look alike; the result does not depend on it.
        max_invalid_fraction: fraction of a split's images that may be left out because they do not decode.

    Returns:
        Reference to one memory-mapped Arrow file for each split, with the label map beside them.

    Raises:
        SettingsError: when the rows' kind does not fit the module's.
        ContractError: when a check whose policy is `fail` finds something.
        ImageError: naming every image that does not decode.
        TokenizerError: when the module has no usable tokenizer.
    """
    is_image = dataset.rows_kind == "image"
    if is_image != (module.module_kind == "image"):
        raise SettingsError(
            f"rows of kind {dataset.rows_kind} cannot be encoded for the {module.module_kind} module {module.name!r}"
        )
    size = spec.image_size or module.image_size if is_image else None
    facts = {
        "dataset": dataset.model_dump(),
        "module": module.model_dump(),
        "max_seq_len": None if is_image else spec.max_seq_len,
        "image_size": size,
    }
    rules = ImageRules(rgb_of(spec.background))
    if is_image:
        facts |= rules.facts()
    opened = Store(store)
    key = content_key("encode_dataset", FORMAT_VERSION, facts)
    monitor = EncodingMonitor(opened, key, dataset, checks, max_invalid_fraction, publish_encoding)
    artifact = opened.find("encoded", key) if reuse else None
    if artifact is None:
        source, tokenizer_folder = opened.open(dataset).folder, opened.open(module).folder
        label_map = LabelMap.load(source / "label_map.json")
        context = EncodeContext(dataset.rows_kind, label_map, tokenizer_folder, spec.max_seq_len, size or 0, rules)
        with opened.create("encoded", key, holds=[source]) as draft:
            for split, rows in dataset.rows.items():
                _encode_split(source / f"{split}.parquet", draft.folder / f"{split}.arrow", rows, context)
            label_map.save(draft.folder / "label_map.json")
            draft.facts |= {**facts, **context.facts(), "left_out": monitor.quarantine_rows(context.bad_images)}
        artifact = opened.load("encoded", key)
    monitor.check(artifact)
    return _reference(artifact, dataset, module)


def _encode_split(source: Path, target: Path, rows: int, context: EncodeContext) -> None:
    with progress_bar(f"encoding {source.stem}", rows) as bar:
        ENCODERS[context.rows_kind](pq.ParquetFile(source), target, context, bar.advance)


def _reference(artifact: Artifact, dataset: DatasetRef, module: ModuleRef) -> EncodedRef:
    return EncodedRef(
        path=artifact.path,
        sha256=artifact.sha256,
        dataset=dataset,
        module=module,
        max_seq_len=artifact.facts["max_seq_len"],
        image_size=artifact.facts["image_size"],
    )
