"""The model card of an export, Markdown and HTML, from what the folder itself holds. Must not import Paddle or Prefect."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hubflow.data.page import environment
from hubflow.files import read_text
from hubflow.inference.verification import read_verification
from hubflow.schemas.labels import LabelMap

MOST_LABELS = 200
EXAMPLES = {
    "text": '["a text"]',
    "text_pair": '[("a text", "another")]',
    "tokens": '[["words", "of", "a", "sentence"]]',
    "image": '["image.png"]',
}
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")
_MARKS = re.compile(r"([\\`*_{}\[\]()#+!|~$<>&@]|:(?=//)|(?<=www)\.)")


def write_card(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write `card.md` and `card.html` beside the files that they tell of.

    Args:
        folder: an export, with its signature, label map and verification.
        facts: of its manifest.
    """
    view = card_view(folder, facts)
    pages = environment()
    pages.filters |= {"md": markdown_text, "seen": seen_text, "short": _short}
    for name in ("card.md", "card.html"):
        (folder / name).write_text(pages.get_template(name).render(view), encoding="utf-8")


def card_view(folder: Path, facts: Mapping[str, Any]) -> dict[str, Any]:
    """What both cards say."""
    signature = json.loads(read_text(folder / "signature.json"))
    labels = LabelMap.load(folder / "label_map.json").labels
    metrics: Mapping[str, Mapping[str, float]] = facts["metrics"]
    return {
        "facts": facts,
        "signature": signature,
        "task": facts["task"].replace("_", " "),
        "labels": list(enumerate(labels[:MOST_LABELS])),
        "more_labels": len(labels) - MOST_LABELS,
        "metric_names": list(dict.fromkeys(name for values in metrics.values() for name in values)),
        "settings": list(_flat(facts["training"]["settings"])),
        "verification": read_verification(folder),
        "example": EXAMPLES[signature["rows_kind"]],
        "limits": _limits(signature, facts),
    }


def seen_text(value: object) -> str:
    """One line in which characters that are not seen, or that turn the text around, are written as their codes."""
    return _UNSEEN.sub(lambda match: f"\\u{ord(match[0]):04x}", str(value))


def markdown_text(value: object) -> str:
    """`value` as Markdown that shows it: neither HTML nor marks of its own nor a table's end."""
    return _MARKS.sub(r"\\\1", seen_text(value)).replace(r"\<", "&lt;").replace(r"\>", "&gt;").replace(r"\&", "&amp;")


def _short(value: float) -> str:
    return f"{value:.4g}"


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            rows += _flat(value, f"{prefix}{name}.")
        else:
            rows.append((f"{prefix}{name}", json.dumps(value, ensure_ascii=False)))
    return rows


def _limits(signature: Mapping[str, Any], facts: Mapping[str, Any]) -> list[str]:
    found = [
        f"Every row gets one of the {facts['num_classes']} labels, one unlike all that was trained on too.",
        "The metrics are of the rows named here; of rows of another kind nothing was measured.",
    ]
    if "text" in signature:
        cut = "words after that are labelled O, or with the first label" if signature["rows_kind"] == "tokens" else "no more"
        found.append(f"Of a text the first {signature['text']['max_seq_len']} tokens count, special ones included; {cut}.")
    else:
        side = signature["image"]["image_size"]
        found.append(f"An image is scaled to {side} × {side} pixels, whatever its shape.")
        if signature["image"].get("image_rules"):
            red, green, blue = signature["image"]["background"]
            found.append(f"Transparent parts of an image show the colour #{red:02x}{green:02x}{blue:02x}.")
    if not facts["metrics"]:
        found.append("There were no rows to evaluate on but those that it was trained on.")
    found.append("Licence and origin of the pretrained module and of the data are not known here: ask where they are from.")
    return found
