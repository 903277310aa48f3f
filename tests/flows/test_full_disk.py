"""A disk that becomes full while a nightly run writes: nothing half is taken for whole, and the next run goes on."""

from pathlib import Path

import pytest
from full_disk import LEFT, drawn, run_points, why_not

POINTS: list[tuple[int | str, int]] = [
    (r"mkdir .*/training/.*/\.last-", LEFT[1]),  # a checkpoint, cut in the middle of its weights
    (r"open .*/exports/.*/signature\.json", LEFT[0]),
    (r"open .*/deployed/", LEFT[0]),
    (r"mkdir .*/exports/", LEFT[1]),  # Paddle's own writer, which does not say that the disk is full
    *drawn(1, seed=17),
]
"""Some of the writes; `python tests/full_disk.py --all` is for all of them."""


@pytest.mark.soak
def test_a_night_on_a_disk_that_becomes_full(tmp_path: Path) -> None:
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    log = tmp_path / "log"
    outcomes, events = run_points(POINTS, log)
    for kind in ("training", "checkpoints", "exports", "evaluations", "verdicts", "deployed", "runs", "nightly", "history"):
        assert any(kind in event for event in events), f"no write of {kind} is seen"
    assert len(outcomes) == len(POINTS)
    assert [outcome for outcome in outcomes if outcome.faults] == []
    assert [outcome.error for outcome in outcomes[:4] if outcome.error is None] == []
