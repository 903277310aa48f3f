"""What a person should know of a data set that was read: counts, first rejected rows, findings. No Paddle or Prefect here."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from hubflow.data.quarantine import MALFORMED, TYPED, Sorted, as_quarantined
from hubflow.data.readers.chunks import Chunk
from hubflow.schemas.data_checks import DataChecks
from hubflow.schemas.findings import Finding, Policy
from hubflow.schemas.labels import LabelMap
from hubflow.schemas.references import Split
from hubflow.schemas.rows import MAX_EXAMPLES, RowModel, RowsError, rows_message

MAX_MALFORMED = 1_000
MAX_CELL_CHARS = 200
Publish = Callable[[Mapping[str, Any]], None]


@dataclass
class SplitReport:
    """Counts of one source as it is read, with the first few rows that were quarantined."""

    source: str
    quarantine: str
    read: int = 0
    accepted: int = 0
    malformed: int = 0
    at_fault: int = 0
    checks: Counter[tuple[str, str]] = field(default_factory=Counter)
    coerced: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    skipped_examples: list[str] = field(default_factory=list)
    open_quotes: list[tuple[int, int]] = field(default_factory=list)
    quoted_columns: frozenset[str] | None = None
    doubled_quotes: Counter[str] = field(default_factory=Counter)
    first_rejected: list[dict[str, Any]] = field(default_factory=list)
    first_failures: dict[tuple[str, str], list[pd.Series]] = field(default_factory=dict)
    first_malformed: list[pd.DataFrame] = field(default_factory=list)
    warned: Counter[tuple[str, str]] = field(default_factory=Counter)
    first_warned: dict[tuple[str, str], list[str]] = field(default_factory=dict)

    @property
    def rejected(self) -> int:
        """Rows that were quarantined."""
        return self.malformed + self.at_fault

    def add(self, chunk: Chunk, found: Sorted) -> None:
        """Count one chunk."""
        self.read += len(chunk.rows) + len(chunk.malformed)
        self.accepted += len(found.accepted)
        self.malformed += len(chunk.malformed)
        self.at_fault += len(found.rejected)
        self.coerced.update(chunk.coerced)
        self.add_skipped(chunk)
        self.open_quotes += chunk.open_quotes
        if chunk.quoted_columns is not None and len(chunk.rows):
            so_far = self.quoted_columns
            self.quoted_columns = chunk.quoted_columns if so_far is None else chunk.quoted_columns & so_far
        self.doubled_quotes.update(chunk.doubled_quotes)
        self.coerced.update(found.coerced)
        self.checks.update((MALFORMED, str(check)) for check in chunk.malformed["check"])
        if len(chunk.malformed) and sum(map(len, self.first_malformed)) < MAX_MALFORMED:
            self.first_malformed.append(chunk.malformed.head(MAX_MALFORMED))
        for (column, check), faults in found.failures.groupby(["column", "check"], sort=False):
            self.checks[str(column), str(check)] += len(faults)
            kept = self.first_failures.setdefault((str(column), str(check)), [])
            kept += [faults.iloc[place] for place in range(min(len(faults), MAX_EXAMPLES - len(kept)))]
        for (column, check), faults in found.warned.groupby(["column", "check"], sort=False):
            self.warned[str(column), str(check)] += len(faults)
            examples = self.first_warned.setdefault((str(column), str(check)), [])
            first = faults.head(MAX_EXAMPLES - len(examples))
            examples += [f"row {row} ({_short(value)})" for row, value in zip(first["row"], first["value"], strict=True)]
        if len(self.first_rejected) < MAX_EXAMPLES and (len(found.rejected) or len(chunk.malformed)):
            few = as_quarantined(found.rejected.head(MAX_EXAMPLES), chunk.malformed.head(MAX_EXAMPLES)).drop(columns=TYPED)
            self.first_rejected += map(_brief, few.head(MAX_EXAMPLES - len(self.first_rejected)).to_dict("records"))

    def add_skipped(self, chunk: Chunk) -> None:
        """Count what a chunk left out."""
        self.skipped.update(chunk.skipped)
        self.skipped_examples += chunk.skipped_examples[: MAX_EXAMPLES - len(self.skipped_examples)]

    def _warnings(self, split: Split) -> list[Finding]:
        """What checks of a user's own contract that only warn (`raise_warning=True`) found in accepted rows."""
        return [
            Finding(
                check=f"contract: {check}",
                policy="warn",
                splits=(split,),
                count=count,
                message=f"{count} row(s) of {split} fail the check {check!r} of {column}, which only warns; they are kept",
                examples=tuple(self.first_warned[column, check]),
            )
            for (column, check), count in self.warned.items()
        ]

    def failures(self) -> pd.DataFrame:
        """The first few faults of each check."""
        return pd.DataFrame([row for rows in self.first_failures.values() for row in rows]).reset_index(drop=True)

    def fault(
        self, model: RowModel, label_map: LabelMap | None, texts: list[str], share: float, path: str, quarantine: Path
    ) -> RowsError:
        """The error that more rows break the contract than `share` of them.

        Args:
            model: the contract.
            label_map: what labels were held to.
            texts: of malformed lines.
            share: of the rows that may be quarantined.
            path: where they are, as a person finds them.
            quarantine: the same on this machine.
        """
        lines, failures = [], self.failures()
        if self.at_fault:
            lines.append(rows_message(failures, self.at_fault, model, self.source, label_map, self.checks))
        if self.malformed:
            lines += [f"{self.source}: {self.malformed} line(s) cannot be read", *(f"  - {text}" for text in texts)]
        lines.append(
            f"  {self.rejected} of {self.read} row(s) ({self.rejected / self.read:.2%}) are quarantined, with every check that "
            f"they failed, in {path}; max_invalid_fraction is {share}: correct them, or raise it to go on without them"
        )
        error = RowsError("\n".join(lines), failures)
        error.quarantine = quarantine
        return error

    def findings(self, split: Split, checks: DataChecks) -> list[Finding]:
        """What reading the source found; nothing for a check that is ignored."""
        found = []
        if self.open_quotes:
            swallowed = sum(last - first for first, last in self.open_quotes)
            examples = tuple(f"lines {first} to {last}" for first, last in self.open_quotes[:MAX_EXAMPLES])
            lines = swallowed + len(self.open_quotes)
            message = (
                f"{self.source}: {len(self.open_quotes)} quoted field(s) hold {lines} lines that look like rows; expected a "
                "row a line: close or double the quote, or set `quoting: false` when quotes are plain text"
            )
            found.append(_finding("open_quotes", checks.open_quotes, split, swallowed, message, examples))
        columns = sorted(self.quoted_columns or ())
        others = {name: count for name, count in self.doubled_quotes.items() if name not in columns}
        if columns or others:
            examples = (
                *(f"every field of {name!r}" for name in columns),
                *(f"{count} field(s) of {name!r}" for name, count in others.items()),
            )
            message = (
                f"{self.source}: fields keep the quotes that they are written in; expected them without: set `quoting: true` "
                "(or `quote` for another character), and write no space before a quote"
            )
            count = len(columns) * self.read + sum(others.values())
            found.append(_finding("kept_quotes", checks.kept_quotes, split, count, message, examples[:MAX_EXAMPLES]))
        if self.skipped_examples:
            reasons = ", ".join(f"{reason} {count}" for reason, count in self.skipped.items())
            message = f"{split}: files in {self.source} are skipped: {reasons}; move or remove them, or mend what is wrong"
            skipped = sum(self.skipped.values())
            found.append(_finding(SKIPPED, checks.skipped_files, split, skipped, message, tuple(self.skipped_examples)))
        return [*(finding for finding in found if finding.policy != "ignore"), *self._warnings(split)]

    def as_dict(self) -> dict[str, Any]:
        """For the manifest and for a person."""
        return {
            "source": self.source,
            "read": self.read,
            "accepted": self.accepted,
            "rejected": self.rejected,
            "malformed": self.malformed,
            "checks": {f"{column}: {check}": count for (column, check), count in self.checks.items()},
            "first_rejected": self.first_rejected,
            "quarantine": self.quarantine if self.rejected else None,
            "coerced": dict(self.coerced),
            "skipped": dict(self.skipped),
        }


@dataclass
class DataReport:
    """The report of a data set: each source, and what the observers of its rows found."""

    max_invalid_fraction: float
    splits: dict[Split, SplitReport] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def of_content(self) -> dict[str, Any]:
        """The part that is a function of the rows and the settings alone, and not of the data sets before."""
        whole = self.as_dict()
        findings = [one for one in whole["findings"] if one["check"].partition(".")[0] != DRIFT]
        return {**whole, "findings": findings, "facts": {name: fact for name, fact in self.facts.items() if name != DRIFT}}

    def as_dict(self, error: str | None = None) -> dict[str, Any]:
        """JSON-serialisable; `error` says why the stage failed.

        Returns:
            max_invalid_fraction, splits (by source: read, accepted, rejected, malformed, checks, first_rejected, quarantine
            relative to the store, coerced, skipped), findings, facts and error.
        """
        return {
            "max_invalid_fraction": self.max_invalid_fraction,
            "splits": {split: report.as_dict() for split, report in self.splits.items()},
            "findings": [finding.model_dump(mode="json") for finding in self.findings],
            "facts": self.facts,
            "error": error,
        }


DRIFT, SKIPPED = "drift", "skipped_files"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= MAX_CELL_CHARS else f"{text[:MAX_CELL_CHARS]}…"


def _finding(check: str, policy: Policy, split: Split, count: int, message: str, examples: tuple[str, ...]) -> Finding:
    return Finding(check=check, policy=policy, splits=(split,), count=count, message=message, examples=examples)


def _brief(row: dict[Any, Any]) -> dict[str, Any]:
    return {
        str(name): f"{value[:MAX_CELL_CHARS]}…" if isinstance(value, str) and len(value) > MAX_CELL_CHARS else value
        for name, value in row.items()
        if isinstance(value, list) or not pd.isna(value)
    }
