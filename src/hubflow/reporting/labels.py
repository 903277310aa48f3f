"""Labels, and other names of the user's, as tables show them. Must not import Paddle or Prefect."""

MAX_LABEL_CHARS = 40
"""Labels are cut so in tables; whole ones are in the mistakes."""


def cut_label(label: str) -> str:
    """A label as tables show it."""
    return label if len(label) <= MAX_LABEL_CHARS else f"{label[:MAX_LABEL_CHARS]}…"
