"""What a person at a terminal sees: a line a stage and a progress bar; silent unless the command line switched it on."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from hubflow.text import printable

if TYPE_CHECKING:
    from rich.progress import Progress


class Terminal(Console):
    """A console on which texts of others (file names, labels, rows) are shown and never obeyed; its own styles work."""

    def render_str(self, text: str, **options: Any) -> Text:
        """A text as it is measured and printed."""
        return super().render_str(printable(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Segments of whatever is printed, with control characters of its texts as their escapes."""
        for segment in super().render(renderable, options):
            text = segment.text if segment.control else printable(segment.text)
            yield segment if text == segment.text else Segment(text, segment.style)


console = Terminal(stderr=True, highlight=False)
_shown: list[bool] = [False]


def show_progress(shown: bool) -> None:
    """Switch lines and bars on or off for this process."""
    _shown[0] = shown


def say(line: str) -> None:
    """Print one line (rich markup) when switched on; a long one is left whole, so that the paths in it can be copied."""
    if _shown[0]:
        console.print(line, soft_wrap=True)


@contextmanager
def progress_bar(title: str, total: int) -> Iterator["Bar"]:
    """A bar over `total` units; shows nothing when switched off."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("  {task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("[dim]{task.fields[note]}"),
    )
    with Progress(*columns, console=console, disable=not _shown[0]) as progress:
        yield Bar(progress, progress.add_task(title, total=total, note=""))


class Bar:
    """A bar that moves forward."""

    def __init__(self, progress: "Progress", task: Any) -> None:
        self._progress, self._task = progress, task

    def advance(self, units: int = 1, note: str | None = None) -> None:
        """Move on by `units`, showing `note` beside the bar."""
        self._progress.update(self._task, advance=units)
        if note is not None:
            self._progress.update(self._task, note=note)

    def answer(self, kind: str, message: dict[str, Any]) -> None:
        """Follow work in another process: `begin` with a title and a total, then `advance` by units."""
        if kind == "begin":
            self._progress.update(self._task, description=message["title"], completed=0, total=message["total"])
        elif kind == "advance":
            self.advance(message["units"])

    def start(self, units: int, total: int) -> None:
        """Set how much there is to do and how much of it is done."""
        self._progress.update(self._task, completed=units, total=total)
