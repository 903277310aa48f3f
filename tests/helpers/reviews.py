"""Made-up reviews of which a tiny module can learn the verdict."""

from typing import Any

import pandas as pd

VERDICTS = {"bad": "an awful", "good": "a great"}


def reviews(count: int = 60) -> list[dict[str, Any]]:
    """Reviews, each with a key, a text and a verdict, by turns bad and good."""
    verdicts = list(VERDICTS)
    return [
        {
            "id": 1000 + number,
            "text": f"{VERDICTS[verdicts[number % 2]]} product, order {number}",
            "label": verdicts[number % 2],
        }
        for number in range(count)
    ]


def review_frame(count: int = 60) -> pd.DataFrame:
    """The reviews as a frame of pandas."""
    return pd.DataFrame(reviews(count))
