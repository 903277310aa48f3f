"""What is reported of rows as they are encoded: what is cut or left out, and images against the last ones."""

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from hubflow.data.duplicates import SPLITS
from hubflow.data.encoding import IMAGES_FILE, BadImage, encoding_findings
from hubflow.data.profile import IMAGE_MEASURES, against_last, forget_profile, image_profile, write_profile
from hubflow.data.report import Publish, read_data_report, write_data_report
from hubflow.errors import MAX_LISTED, ContractError, HubflowError, ImageError
from hubflow.schemas.data_checks import DataChecks, DriftSettings
from hubflow.schemas.references import DatasetRef, Finding, Split
from hubflow.store.manifest import atomic_folder
from hubflow.store.store import Artifact, Store, content_key

log = logging.getLogger(__name__)


class EncodingMonitor:
    """Evaluates encoded rows by their folder and its facts alone, and publishes what is found before it refuses them.

    Args:
        store: the store.
        key: of the encoded rows in the store.
        dataset: the rows.
        checks: policies.
        max_invalid_fraction: share of a split's images that may be left out because they do not decode.
        publish: shows a report to people who watch the run.
    """

    def __init__(
        self, store: Store, key: str, dataset: DatasetRef, checks: DataChecks, max_invalid_fraction: float, publish: Publish
    ) -> None:
        self._show = publish
        self._store, self._key, self._dataset = store, key, dataset
        self._checks, self._share = checks, max_invalid_fraction
        self._quarantine = f"quarantine/{key}"

    def quarantine_rows(self, images: Mapping[str, list[BadImage]]) -> dict[str, dict[str, Any]]:
        """Keep the images that do not decode in the quarantine; give how many there are of each split, and the first of them.

        Raises:
            ImageError: when they are more than may be left out.
        """
        bad = {split: some for split, some in images.items() if some}
        if bad:
            with atomic_folder(self._store.root / self._quarantine, [self._store.open(self._dataset).folder]) as draft:
                for split, some in bad.items():
                    frame = pd.DataFrame([asdict(image) for image in some])
                    frame.insert(4, "checks", [["decodes"]] * len(frame))
                    frame.to_parquet(draft / f"{split}.parquet", index=False)
            self._store.sync(self._quarantine)
        left_out = {
            split: {"count": len(some), "of": self._dataset.rows[split], "first": [image.error for image in some[:MAX_LISTED]]}
            for split, some in bad.items()
        }
        self._require_images(left_out)
        return left_out

    def check(self, encoded: Artifact) -> None:
        """Publish what was found of the encoded rows; keep the profile of images, for the next ones to be compared with.

        Raises:
            ImageError: when more images do not decode than may be left out.
            ContractError: when a check whose policy is `fail` finds something.
        """
        self._require_images(encoded.facts["left_out"])
        report = self._report(encoding_findings(encoded.folder, encoded.facts, self._checks))
        if encoded.facts["max_seq_len"] is not None:
            report["facts"] |= {name: encoded.facts[name] for name in ("length_histogram", "max_seq_len")}
        if encoded.facts["image_size"] is not None:
            report["facts"]["image_changes"] = encoded.facts["image_changes"]
        keep = self._compare(encoded.folder, report)
        failed = [one for one in report["findings"] if one["policy"] == "fail"]
        for one in report["findings"]:
            log.warning("%s", one["message"])
        if failed:
            lines = "\n".join(f"  - {one['check']}: {one['message']}" for one in failed)
            self._refuse(ContractError(f"the encoded rows fail {len(failed)} check(s):\n{lines}"), report)
        self._publish(report)
        if keep is not None:
            folder = self._store.open(self._dataset).folder
            write_profile(self._store, keep[0], self._key, keep[1], report["facts"]["profile"], [folder])

    def _report(self, findings: list[Finding]) -> dict[str, Any]:
        found = [finding.model_dump(mode="json") for finding in findings]
        return {"rows": self._dataset.rows, "findings": found, "facts": {}, "error": None}

    def _compare(self, folder: Path, report: dict[str, Any]) -> tuple[str, str] | None:
        """Add the images' profile, and what it is beside the last one; the series and the content of the images, if any."""
        known = self._store.open(self._dataset).facts
        if self._dataset.rows_kind != "image":
            return None
        series, content = content_key("images", known["data_report"]["facts"]["series"]), content_key(known["source_sha256"])
        columns, splits = list(IMAGE_MEASURES), [split for split in SPLITS if split in self._dataset.rows]
        frames: dict[Split, pd.DataFrame] = {
            split: pd.read_parquet(folder / IMAGES_FILE.format(split=split), columns=columns) for split in splits
        }
        profile = image_profile(frames)
        limits = DriftSettings(psi=self._checks.drift.psi, rows=_UNLIMITED)  # rows were compared as they were loaded
        found, drift = against_last(self._store, series, content, profile, limits)
        drift["measures"] = [measure for measure in drift["measures"] if measure["kind"] == "psi"]
        report["findings"] += [finding.model_dump(mode="json") for finding in found]
        report["facts"] |= {"profile": profile, "drift": drift}
        return series, content

    def _require_images(self, left_out: Mapping[str, Mapping[str, Any]]) -> None:
        """Refuse more undecodable images than are allowed, or a split that has no others."""
        over = {
            split: out for split, out in left_out.items() if out["count"] > self._share * out["of"] or out["count"] == out["of"]
        }
        if not over:
            return
        total, first = sum(out["count"] for out in over.values()), [error for out in over.values() for error in out["first"]]
        lines = "\n".join(f"  - {error}" for error in first[:MAX_LISTED])
        more = f"\n  … and {total - MAX_LISTED} more" if total > MAX_LISTED else ""
        where = self._store.display_path(self._quarantine)
        shares = ", ".join(f"{out['count']} of {out['of']} in {split}" for split, out in over.items())
        message = (
            f"{total} images cannot be decoded\n{lines}{more}\n{shares}; at most a share of {self._share:g} may be left out; "
            f"all of them are listed in {where}; mend or remove them, or raise max_invalid_fraction"
        )
        if total == 1:
            message = f"{first[0]}; it is the only one, quarantined in {where}"
        error = ImageError(message)
        error.quarantine = self._store.resolve(self._quarantine)
        self._refuse(error, self._report([]))

    def _refuse(self, error: HubflowError, report: dict[str, Any]) -> None:
        dataset = self._store.open(self._dataset)
        forget_profile(self._store, dataset.facts["data_report"]["facts"]["series"], dataset.folder.name)
        self._publish({**report, "error": str(error)})
        raise error

    def _publish(self, report: dict[str, Any]) -> None:
        self._show(report)
        write_data_report(self._store, self._key, report, [self._store.open(self._dataset).folder])


_UNLIMITED = DriftSettings().rows.model_copy(update={"warn": None, "fail": None})


def with_encoding(data_report: Mapping[str, Any], store: Store, key: str) -> dict[str, Any]:
    """The data set's report with what encoding its rows found, which is kept by `key`."""
    encoding = read_data_report(store, key) or {"findings": [], "facts": {}}
    merged: dict[str, Any] = json.loads(json.dumps(data_report))
    facts, added = merged.setdefault("facts", {}), encoding["facts"]
    merged["findings"] = [*merged.get("findings", []), *encoding["findings"]]
    for split, counted in added.get("profile", {}).get("splits", {}).items():
        facts["profile"]["splits"][split]["histograms"] |= counted["histograms"]
    if "drift" in added and "drift" in facts:
        facts["drift"]["measures"] += added["drift"]["measures"]
    facts |= {name: added[name] for name in ("length_histogram", "max_seq_len", "image_changes") if name in added}
    return merged
