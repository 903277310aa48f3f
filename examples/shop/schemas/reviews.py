"""What a review is."""

import pandera.pandas as pa
from pandera.typing import Series

from hubflow.schemas import TextRows


class Reviews(TextRows):
    """A review's text, with 1 to 5 stars."""

    stars: Series[int] = pa.Field(ge=1, le=5)
