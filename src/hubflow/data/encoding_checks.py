"""What encoding found: truncation, images left out, near-duplicates; each with its policy. No Paddle or Prefect here."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hubflow.data.encoding_images import IMAGES_FILE
from hubflow.data.key_matches import MAX_EXAMPLES, SPLITS
from hubflow.data.near_duplicates import bit_count, nearest
from hubflow.schemas.data_checks import DataChecks
from hubflow.schemas.findings import Finding
from hubflow.schemas.references import Split

_STRUCTURE = 2  # a hash with fewer bits set is of an image of one colour, which looks like every other such image
_SMALLEST_SIDE = 32  # in pixels: of fewer there is too little to see, and hashes of different images are alike
_LOST = {
    "truncated_rows": ("truncated", "row(s)", "are cut by"),
    "lost_words": ("words_lost", "word(s)", "count as O, cut off by"),
    "lost_entities": ("entities_lost", "entities", "lose a word to"),
}


def encoding_findings(folder: Path, facts: Mapping[str, Any], checks: DataChecks) -> list[Finding]:
    """What is to be said of an encoded data set, from its folder and its manifest's facts alone."""
    splits = [split for split in SPLITS if (folder / f"{split}.arrow").is_file()]
    return [*_lost(facts, checks), *_left_out(facts), *_near_duplicates(folder, splits, checks)]


def _lost(facts: Mapping[str, Any], checks: DataChecks) -> Iterator[Finding]:
    for check, (fact, unit, verb) in _LOST.items():
        policy = getattr(checks, check)
        limit = checks.max_truncated_fraction if check == "truncated_rows" else checks.max_lost_fraction
        for split, lost in facts.get(fact, {}).items():
            if policy == "ignore" or lost["count"] <= limit * lost["of"]:
                continue
            lengths = facts["lengths"][split]
            share = lost["count"] / lost["of"]
            named = [str(row) for row in lost["first_rows"]]
            rows = ", ".join(named[:MAX_EXAMPLES]) + (", …" if len(named) > MAX_EXAMPLES else "")
            message = (
                f"{split}: {lost['count']} of {lost['of']} {unit} ({share:.2%}) {verb} max_seq_len {facts['max_seq_len']}, "
                f"expected at most {limit:.2%}; first rows {rows}; raise max_seq_len to {lengths['longest']} for every row, "
                f"or to {max(lengths['p99'], facts['max_seq_len'])} for 99% of them{_most(facts, lengths)}, or shorten the rows"
            )
            examples = tuple(f"row {row}" for row in lost["first_rows"][:MAX_EXAMPLES])
            yield Finding(check=check, policy=policy, splits=(split,), count=lost["count"], message=message, examples=examples)


def _most(facts: Mapping[str, Any], lengths: Mapping[str, int]) -> str:
    limit = facts["module"]["max_positions"]
    return f" (the module takes at most {limit})" if limit is not None and lengths["longest"] > limit else ""


def _left_out(facts: Mapping[str, Any]) -> Iterator[Finding]:
    for split, out in facts.get("left_out", {}).items():
        message = f"{split}: {out['count']} of {out['of']} image(s) do not decode and are left out; mend or remove them"
        yield Finding(
            check="max_invalid_fraction",
            policy="warn",
            splits=(split,),
            count=out["count"],
            message=message,
            examples=tuple(out["first"][:MAX_EXAMPLES]),
        )


def _near_duplicates(folder: Path, splits: Sequence[Split], checks: DataChecks) -> Iterator[Finding]:
    files = {split: folder / IMAGES_FILE.format(split=split) for split in splits}
    if checks.near_duplicate_images == "ignore" or not all(file.is_file() for file in files.values()):
        return
    images = {
        split: pd.read_parquet(file, columns=["row", "sha256", "phash", "width", "height"]) for split, file in files.items()
    }
    for one, other in combinations(splits, 2):
        found = _alike(images[one], images[other], checks.near_duplicate_distance)
        if found:
            message = (
                f"{len(found)} image(s) of {other} look like one of {one} though the files differ (perceptual hashes at most "
                f"{checks.near_duplicate_distance} of 64 bits apart); look at them, and remove them from one of the two"
            )
            examples = tuple(
                f"{one} row {row} ≈ {other} row {like} ({bits} bits apart)" for row, like, bits in found[:MAX_EXAMPLES]
            )
            policy, count = checks.near_duplicate_images, len(found)
            yield Finding(
                check="near_duplicate_images",
                policy=policy,
                splits=(one, other),
                count=count,
                message=message,
                examples=examples,
            )


def _has_detail(images: pd.DataFrame) -> NDArray[np.bool_]:
    """Whether an image shows enough for its hash to tell it from others."""
    has_structure = bit_count(images["phash"].to_numpy(np.uint64)) >= _STRUCTURE
    large: NDArray[np.bool_] = images[["width", "height"]].min(axis=1).to_numpy() >= _SMALLEST_SIDE
    return large & has_structure


def _alike(known: pd.DataFrame, asked: pd.DataFrame, distance: int) -> list[tuple[int, int, int]]:
    """Rows of near-duplicates of `known` and `asked`, with their distance; files that are the same are told elsewhere."""
    asked = asked[~asked["sha256"].isin(known["sha256"])]
    known, asked = known[_has_detail(known)], asked[_has_detail(asked)]
    if known.empty or asked.empty:
        return []
    place, bits = nearest(known["phash"].to_numpy(np.uint64), asked["phash"].to_numpy(np.uint64), distance)
    near = np.flatnonzero(place >= 0)
    ours, theirs = known["row"].to_numpy()[place[near]], asked["row"].to_numpy()[near]
    return list(zip(ours.tolist(), theirs.tolist(), bits[near].tolist(), strict=True))
