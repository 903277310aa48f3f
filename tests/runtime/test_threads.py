"""Work shared among threads: results in order, errors in their place, no further ahead than asked."""

import threading
import time

import pytest

from hubflow.runtime.threads import thread_map


@pytest.mark.parametrize("at_once", [1, 3, 16])
def test_results_come_in_order_and_errors_come_through(at_once: int) -> None:
    def work(item: int) -> int:
        time.sleep(0.002 * (item % 3))
        if item == 90:
            raise ValueError("row 90")
        return item * item

    assert list(thread_map(work, range(80), 4, ahead=7, at_once=at_once)) == [item * item for item in range(80)]
    with pytest.raises(ValueError, match="row 90"):
        list(thread_map(work, range(100), 4, at_once=at_once))
    assert list(thread_map(work, [], 4, at_once=at_once)) == []


@pytest.mark.parametrize("at_once", [1, 3, 16])
def test_no_more_is_under_way_than_asked(at_once: int) -> None:
    begun, reading = [], threading.Lock()

    def work(item: int) -> int:
        with reading:
            begun.append(item)
        return item

    results = thread_map(work, range(200), 4, ahead=12, at_once=at_once)
    assert [next(results) for _ in range(30)] == list(range(30))
    time.sleep(0.1)
    assert len(begun) <= 30 + 12 + at_once
    results.close()  # type: ignore[attr-defined]
    assert len(begun) <= 30 + 12 + at_once
