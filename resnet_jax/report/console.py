"""Live progress on a terminal; plain lines where there is none (a pipe, a log file, CI). An observer of the loop."""

from __future__ import annotations

import time

from rich.console import Console as RichConsole
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column

from resnet_jax.report.plots import training_metric
from resnet_jax.tasks.task import format_metric

REFRESH_SECONDS = 0.2


class Console:
    """Shows epoch, images/s, loss, the headline metric and the time to go, and a line per epoch.

    Args:
        total_steps: updates of the whole run.
        steps_per_epoch: updates per epoch.
        start_step: updates done when this session begins.
        batch_size: images per update.
        console: where to print.
        headline: the metric to show; while training another one may be known, which is then shown.
    """

    def __init__(
        self,
        *,
        total_steps: int,
        steps_per_epoch: int,
        start_step: int,
        batch_size: int,
        console: RichConsole,
        headline: str = "accuracy",
    ) -> None:
        self._console, self._batch_size, self._steps_per_epoch = console, batch_size, steps_per_epoch
        self._headline = headline
        self._epochs = -(-total_steps // steps_per_epoch)
        self._since: tuple[float, float] | None = None
        self._shown = 0.0
        self._progress = Progress(
            TextColumn("epoch {task.fields[epoch]}", table_column=Column(no_wrap=True)),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}", table_column=Column(no_wrap=True)),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._task = self._progress.add_task(
            "train", total=total_steps, completed=start_step, epoch="-", numbers="compiling ..."
        )
        self._progress.start()

    def on_step(self, row: dict[str, float]) -> None:
        """Move the bar."""
        now, step = time.perf_counter(), row["step"]
        if self._since is None:
            self._since = (now, step)
        if now - self._shown < REFRESH_SECONDS:
            return
        self._shown = now
        began, first = self._since
        rate = (step - first) * self._batch_size / (now - began) if step > first else 0.0
        numbers = "  ".join([f"{rate:,.0f} images/s  loss {row['loss']:.3f}", *self._metric(row, 0)])
        self._progress.update(self._task, completed=step, epoch=f"{self._epoch(row)}/{self._epochs}", numbers=numbers)

    def on_epoch(self, row: dict[str, float]) -> None:
        """Print the epoch's line."""
        parts = [
            f"epoch {self._epoch(row):>{len(str(self._epochs))}}/{self._epochs}",
            f"loss {row['loss']:.4f}",
            *self._metric(row, 7),
        ]
        if "val_loss" in row:
            parts.append(f"val loss {row['val_loss']:.4f}")
        if self._headline != "loss" and (validated := f"val_{self._headline}") in row:
            shown = format_metric(self._headline, row[validated], width=7)
            parts.append(f"val {self._headline.replace('_', ' ')} {shown}")
        if "images_per_second" in row:
            parts.append(f"{row['images_per_second']:,.0f} images/s")
        self._progress.update(self._task, completed=row["step"])
        self._console.print("  ".join(parts), highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Remove the bar."""
        self._progress.stop()

    def _metric(self, row: dict[str, float], width: int) -> list[str]:
        """Return the metric known in training, as text; nothing if there is none."""
        name = training_metric([row], self._headline)
        if name is None or name == "loss":
            return []
        return [f"{name.replace('_', ' ')} {format_metric(name, row[name], width=width)}"]

    def _epoch(self, row: dict[str, float]) -> int:
        return -(-int(row["step"]) // self._steps_per_epoch)
