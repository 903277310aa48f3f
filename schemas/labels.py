"""The label map: the ordered labels of a data set, identified everywhere by one hash."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator

from hubflow.schemas.errors import LabelMapError, bounded
from hubflow.schemas.tags import Tagging, TagScheme, tagging_of

IGNORED_LABEL = -100
"""Label of a token that carries no loss: padding, special tokens, continuation pieces."""


class LabelMap(BaseModel):
    """Ordered class labels; a label's index is its class id.

    Raises:
        ValueError: when a label repeats or is empty, or when there are none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    labels: tuple[str, ...]
    tag_scheme: TagScheme = Field("auto", description="Of labels that are tags; told by the labels when auto")

    @field_validator("labels")
    @classmethod
    def _distinct(cls, labels: tuple[str, ...]) -> tuple[str, ...]:
        repeated = sorted({label for label in labels if labels.count(label) > 1}) if len(set(labels)) < len(labels) else []
        if repeated:
            raise ValueError(f"labels must be distinct; repeated: {bounded(repeated)}")
        if not labels or "" in labels:
            raise ValueError("a label map needs at least one label, and none may be empty")
        return labels

    @property
    def num_classes(self) -> int:
        """Number of labels."""
        return len(self.labels)

    @property
    def sha256(self) -> str:
        """Hash of the ordered labels: two maps with the same labels in another order differ."""
        return hashlib.sha256(json.dumps(self._content, ensure_ascii=False).encode()).hexdigest()

    @property
    def tagging(self) -> Tagging:
        """How the labels are read as tags.

        Raises:
            TagError: when they can be read in two ways, and `tag_scheme` does not say which.
        """
        return tagging_of(self.labels, self.tag_scheme)

    def index(self) -> dict[str, int]:
        """Class id by label."""
        return {label: position for position, label in enumerate(self.labels)}

    def require_same(self, other: Self | str, here: str, there: str) -> None:
        """Refuse to go on when `other` (a map or a hash) is not this map.

        Raises:
            LabelMapError: naming both sides and the remedy.
        """
        theirs = other if isinstance(other, str) else other.sha256
        if theirs != self.sha256:
            raise LabelMapError(
                f"the label map of {here} ({self.num_classes} labels: {bounded(self.labels)}; hash {self.sha256[:12]}) "
                f"is not that of {there} (hash {theirs[:12]}); build both from the same data set or label list"
            )

    def save(self, path: Path) -> None:
        """Write the labels as a JSON list; with a scheme of tags that is set, as an object with `labels` and `tag_scheme`."""
        path.write_text(json.dumps(self._content, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote."""
        found = json.loads(path.read_text(encoding="utf-8"))
        return cls(**found) if isinstance(found, dict) else cls(labels=tuple(found))

    @classmethod
    def from_values(cls, values: Iterable[str], tag_scheme: TagScheme = "auto") -> Self:
        """Map of the distinct values: in numeric order when all are integers, in code-point order otherwise."""
        return cls(labels=tuple(sorted_labels(list(dict.fromkeys(values)))), tag_scheme=tag_scheme)

    @property
    def _content(self) -> Any:
        return self.labels if self.tag_scheme == "auto" else {"labels": self.labels, "tag_scheme": self.tag_scheme}


def sorted_labels(labels: Sequence[str]) -> list[str]:
    """Labels in the order in which a person would number them.

    IOB tags keep `O` first and each type's `B-` before its `I-`.
    """
    if all(label.removeprefix("-").isdecimal() for label in labels):
        return sorted(labels, key=int)
    if "O" in labels and all(label == "O" or label[1:2] == "-" for label in labels):
        return sorted(labels, key=lambda label: (label != "O", label[2:], label[:1]))
    return sorted(labels)
