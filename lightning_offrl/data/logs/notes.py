"""What happened while rows became episodes, in sentences."""

from __future__ import annotations

from dataclasses import dataclass, field

from lightning_offrl.data.logs.tables import Log
from lightning_offrl.data.readers.checks import count


@dataclass
class ImportNotes:
    """What happened on the way, for the notes."""

    unfinished: int = 0
    dropped: int = 0
    lonely: int = 0
    gaps: int = 0
    pieces: int = 0
    both: int = 0
    truncated: int = 0
    clipped: int = 0
    changing: int = 0
    maskless: int = 0
    filled: dict[str, int] = field(default_factory=dict)
    steps: dict[int, int] = field(default_factory=dict)
    """Time steps by their power of 2 to the 1/64, for the median."""

    def notes(self, log: Log) -> list[str]:
        """Sentences."""
        last = {"cut": "the last row is only the last observation", "terminated": "taken as terminal"}
        out = list(log.notes)
        if self.unfinished:
            what = last.get(log.settings.last_row, "")
            out.append(f"{count(self.unfinished, 'episode')} ended without a flag: {what} (last_row in the map)")
        for number, what, why in (
            (self.truncated, "episode", "ended truncated: the last row is only its last observation"),
            (self.dropped, "episode", "without an end left out (last_row: drop)"),
            (self.lonely, "episode", "of a single row left out: there is no step in it"),
            (self.maskless, "last row", "without a mask left out: what was legal there is not known"),
            (self.gaps, "gap", "in time longer than the map allows: episodes were cut there"),
            (self.pieces, "time", "an episode was cut because of max_length"),
            (self.both, "row", "with both flags: taken as terminal"),
            (self.clipped, "action", "outside of the bounds, cut at them"),
            (self.changing, "episode", "with a group that changes: the one of the first step counts"),
        ):
            if number:
                out.append(f"{count(number, what)} {why}")
        for role, values in log.unseen.items():
            if values:
                wanted = " or ".join(map(repr, sorted(values)))
                out.append(f"no row has {role} {wanted}: is it spelt as in the log?")
        for name, number in self.filled.items():
            out.append(f"{count(number, 'missing value')} of {name} filled in")
        out += self._long_steps(log)
        return out

    def _long_steps(self, log: Log) -> list[str]:
        """A word on long gaps that the map does not mention."""
        total = sum(self.steps.values())
        if log.settings.gap is not None or total < 10:
            return []
        below, median = 0, 0.0
        for power in sorted(self.steps):
            below += self.steps[power]
            median = 2.0 ** (power / 64)
            if 2 * below >= total:
                break
        long = sum(number for power, number in self.steps.items() if 2.0 ** (power / 64) > 10 * median)
        if not long:
            return []
        unit = " s" if log.in_seconds else ""
        return [
            f"{count(long, 'step')} took more than 10 times as long as the median step (about {median:.3g}{unit}): "
            "give gap in the map to cut episodes there"
        ]
