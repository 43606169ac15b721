"""How a competitor takes turns: it sets itself up, says so, and then makes updates and times them when it is told.

Commands come as JSON lines on standard input, answers go as JSON lines to standard output; whatever else the program
prints goes to standard error. Only the standard library, so that every competitor's environment can import it.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read once, when torch is imported


class Turns:
    """The competitor's end. Between turns it waits without using the CPU."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self._begun = (0.0, 0.0)
        self.left = 0
        """Updates still to be made in this turn."""

    def say(self, **answer: Any) -> None:
        """Send one answer."""
        self._out.write(json.dumps(answer) + "\n")
        self._out.flush()

    def wait(self, other: Callable[[dict[str, Any]], None] | None = None) -> None:
        """Wait for the next turn, and start its clocks; leaves the process when there is none.

        Args:
            other: takes commands that are not a turn.
        """
        while True:
            line = sys.stdin.readline()
            command = json.loads(line) if line else {"stop": True}
            if "stop" in command:
                self._out.flush()
                os._exit(0)
            if "run" in command:
                self.left = command["run"]
                self._begun = time.process_time(), time.perf_counter()
                return
            assert other is not None, command
            other(command)

    def made(self, updates: int = 1, other: Callable[[dict[str, Any]], None] | None = None) -> None:
        """So many updates were made: when the turn is over, report and wait for the next."""
        self.left -= updates
        if self.left <= 0:
            cpu, wall = time.process_time() - self._begun[0], time.perf_counter() - self._begun[1]
            self.say(cpu=cpu, wall=wall)
            self.wait(other)

    def serve(self, update: Callable[[], None], warm: int = 20, **about: Any) -> None:
        """For a competitor that is a function: warm up, then take turns for ever."""
        for _ in range(warm):
            update()
        self.say(ready=about)
        self.wait()
        while True:
            update()
            self.made()
