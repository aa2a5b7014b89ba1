"""What a run writes down while it goes: CSV files, TensorBoard, progress bars."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from streamfer.extras import needs
from streamfer.files import write_text
from streamfer_train.recipes.run_folder import writing
from streamfer_train.recipes.sections import LogConfig

STEPS, EPOCHS = "steps.csv", "epochs.csv"


def new_bar() -> Progress:
    """Return a progress bar; it shows nothing where standard error is no terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())


@contextmanager
def counted(name: str, *, wanted: bool) -> Iterator[Callable[[int, int], None]]:
    """Lend a bar that is told (done, in all); it shows nothing where standard error is no terminal."""
    with new_bar() as bar:
        task = bar.add_task(name, total=None, visible=wanted)
        yield lambda done, total: bar.update(task, completed=done, total=total)


class Table:
    """A CSV file that grows by rows; columns are those of its first row."""

    def __init__(self, path: Path, key: str) -> None:
        self.path = path
        self.key = key
        self.columns: list[str] = []

    def keep_until(self, last: int) -> None:
        """Drop rows whose key is beyond ``last``: a continued run writes them again."""
        if not self.path.exists():
            return
        import pandas

        table = pandas.read_csv(self.path, dtype=str, keep_default_na=False)
        self.columns = [str(name) for name in table]
        kept = table[pandas.to_numeric(table[self.key], errors="coerce") <= last]
        write_text(self.path, kept.to_csv(index=False, lineterminator="\n"))

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a row; it is in the file when this returns, or an OutputError says why not."""
        fresh = not self.columns
        if fresh:
            self.columns = list(row)
        with writing(self.path), self.path.open("w" if fresh else "a", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, self.columns, lineterminator="\n", extrasaction="ignore", restval="")
            if fresh:
                writer.writeheader()
            writer.writerow({name: f"{v:.7g}" if isinstance(v, float) else v for name, v in row.items()})


class Journal:
    """Rows to ``steps.csv`` and ``epochs.csv``, the same numbers to TensorBoard, and a bar on the terminal.

    Only the leading process keeps one; a silent journal takes everything and writes nothing.
    """

    def __init__(self, folder: Path, config: LogConfig, *, silent: bool = False) -> None:
        self.silent = silent
        self.config = config
        self.steps, self.epochs = Table(folder / STEPS, "step"), Table(folder / EPOCHS, "epoch")
        self._folder = folder
        self._board: Any = None
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    @contextmanager
    def open(self, step: int, epoch: int) -> Iterator[None]:
        """Write from ``step`` steps and ``epoch`` epochs on; later rows of an interrupted run are dropped."""
        if self.silent:
            yield
            return
        with writing(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
        self.steps.keep_until(step)
        self.epochs.keep_until(epoch)
        if self.config.tensorboard:
            with needs("train", "log.tensorboard"):
                from torch.utils.tensorboard import SummaryWriter
            with writing(self._folder / "tensorboard"):
                self._board = SummaryWriter(str(self._folder / "tensorboard"), purge_step=step + 1)
        if self.config.progress and sys.stderr.isatty():
            self._bar = new_bar()
        try:
            with self._bar or nullcontext():
                yield
        finally:
            if self._board is not None:
                with writing(self._folder / "tensorboard"):
                    self._board.close()

    def say(self, line: str) -> None:
        """Show a line on standard error, above the bar where there is one."""
        if not self.silent:
            console = self._bar.console if self._bar is not None else Console(stderr=True)
            console.print(line, soft_wrap=True, highlight=False, markup=False)

    def stage(self, name: str, total: int, done: int = 0) -> None:
        """Show a bar for the next piece of work."""
        if self._bar is not None:
            if self._task is not None:
                self._bar.remove_task(self._task)
            self._task = self._bar.add_task(name, total=total, completed=done)

    def advance(self) -> None:
        if self._bar is not None and self._task is not None:
            self._bar.advance(self._task)

    def step(self, step: int, row: Mapping[str, float]) -> None:
        """Write down one optimiser step, if it is one of those that are."""
        if self.silent or step % self.config.every:
            return
        self.steps.add({"step": step, **row})
        self._plot("step", row, step)

    def epoch(self, epoch: int, step: int, row: Mapping[str, float]) -> None:
        if self.silent:
            return
        self.epochs.add({"epoch": epoch, "step": step, **row})
        self._plot("epoch", row, step)

    def _plot(self, kind: str, row: Mapping[str, float], step: int) -> None:
        if self._board is not None:
            with writing(self._folder / "tensorboard"):
                for name, value in row.items():
                    self._board.add_scalar(f"{kind}/{name}", value, step)
