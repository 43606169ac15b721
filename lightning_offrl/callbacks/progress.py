"""A line with the progress of training, its speed, and the last score."""

from __future__ import annotations

import math
import sys
import time
from datetime import timedelta
from typing import Any, TextIO

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar as LightningProgressBar


class ProgressBar(LightningProgressBar):
    """Shows the updates made, updates per second, the time left, the last score (or return) and the main losses.

    On a terminal one line is redrawn in place. Elsewhere (a file, a batch system, a notebook) a plain line is printed
    at every tenth of the way instead.

    Args:
        refresh: The number of seconds between two redraws on a terminal.
        file: The file to write to; None takes standard error.
    """

    def __init__(self, refresh: float = 0.25, file: TextIO | None = None) -> None:
        super().__init__()
        self.refresh = refresh
        self._file = file
        self._enabled = True
        self._begin = (0.0, 0)  # clock and updates when this process began to train
        self._drawn = 0.0
        self._printed = 0.0
        self._width = 0

    @property
    def _out(self) -> TextIO:
        return self._file or sys.stderr

    @property
    def _inline(self) -> bool:
        return self._out.isatty()

    def disable(self) -> None:
        """Show nothing from now on."""
        self._enabled = False

    def enable(self) -> None:
        """Show progress from now on."""
        self._enabled = True

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print a line without breaking the bar."""
        self._clear()
        print(*args, **{"file": self._out, **kwargs})

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Show nothing in processes other than the first."""
        super().setup(trainer, pl_module, stage)
        if not trainer.is_global_zero:
            self.disable()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._begin = (time.monotonic(), trainer.global_step)
        self._printed = _tenth(trainer.global_step, trainer.max_steps)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        """Redraw, if it is time."""
        if not self._enabled:
            return
        if self._inline:
            now = time.monotonic()
            if now - self._drawn >= self.refresh:
                self._drawn = now
                self._draw(self.line(trainer))
        elif (tenth := _tenth(trainer.global_step, trainer.max_steps)) > self._printed:
            self._printed = tenth
            print(self.line(trainer), file=self._out, flush=True)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the last line and end it."""
        if self._enabled and self._inline:
            self._draw(self.line(trainer))
            print(file=self._out, flush=True)
            self._width = 0

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """End the line that is drawn."""
        if self._enabled and self._inline and self._width:
            print(file=self._out, flush=True)
            self._width = 0

    def line(self, trainer: Trainer) -> str:
        """The text shown: ``IQL   500/1,000 updates (50 %)  420/s  0:00:01 left  score 45.2  v_loss 0.0123``."""
        done, total = trainer.global_step, trainer.max_steps
        elapsed = time.monotonic() - self._begin[0]
        rate = (done - self._begin[1]) / elapsed if elapsed > 0 else 0.0
        parts = [type(trainer.lightning_module).__name__]
        if total > 0:
            parts.append(f"{done:>{len(f'{total:,}')},}/{total:,} updates ({100 * done / total:.0f} %)")
        else:
            parts.append(f"{done:,} updates")
        parts.append(f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.1f}/s")
        if total > 0 and rate > 0:
            parts.append(f"{timedelta(seconds=math.ceil((total - done) / rate))} left")
        return "  ".join(parts + _metrics(trainer.callback_metrics))

    def _draw(self, text: str) -> None:
        import shutil

        text = text[: shutil.get_terminal_size().columns - 1]
        self._out.write(f"\r{text.ljust(self._width)}")
        self._out.flush()
        self._width = len(text)

    def _clear(self) -> None:
        if self._inline and self._width:
            self._out.write(f"\r{' ' * self._width}\r")
            self._width = 0


def _tenth(done: int, total: int) -> float:
    """The number of tenths of the updates that are done; without a last update, the number of doublings."""
    return math.floor(10 * done / total) if total > 0 else math.floor(math.log2(done + 1))


def _metrics(logged: dict[str, Any], losses: int = 3) -> list[str]:
    """The last score (else return) and the first training losses, as ``name value``."""
    shown = []
    for key in ("eval/score", "eval/return"):
        if key in logged:
            shown.append(f"{key.removeprefix('eval/')} {float(logged[key]):.1f}")
            break
    names = [key for key in logged if key.startswith("train/") and key.endswith("loss")][:losses]
    return shown + [f"{key.removeprefix('train/')} {float(logged[key]):.4g}" for key in names]
