"""A lack of memory that a library tells in its own words is one, and no fault of the file that was read."""

import pyarrow as pa
import pytest

from hubflow.runtime.memory import raise_lack_of_memory


@pytest.mark.parametrize(
    "error",
    [
        pa.ArrowException("Unknown error: Failed to launch worker thread: Resource temporarily unavailable"),
        OSError(12, "Cannot allocate memory"),
        pa.ArrowMemoryError("malloc of size 64 failed"),
    ],
)
def test_a_lack_of_memory_is_raised_as_one(error: Exception) -> None:
    with pytest.raises(MemoryError):
        raise_lack_of_memory(error)


@pytest.mark.parametrize("error", [pa.ArrowInvalid("not an Arrow file"), OSError(2, "No such file or directory")])
def test_other_errors_are_left_alone(error: Exception) -> None:
    raise_lack_of_memory(error)
