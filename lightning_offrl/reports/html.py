"""Reports as one HTML file that opens anywhere: no outside resource, light and dark, wide and narrow.

What a report says and how it is laid out is in ``templates/*.html.j2``. Everything that is put into a template is
escaped, unless it is `Markup`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from lightning_offrl.errors import InputError
from lightning_offrl.reports import formatting, theme
from lightning_offrl.training.files import write_atomically


@dataclass(frozen=True)
class Table:
    """A table: the first column names the row, the others hold numbers and are right-aligned.

    Attributes:
        header: one title per column.
        rows: as many cells each.
        caption: what the table shows.
        highlight: index of the row to stress.
        words: indices of columns with running text, which is left-aligned and wraps.
        colors: the role in `theme.COLORS` of a dot before each row's name, or empty; it ties the row to a figure.

    Raises:
        ValueError: a row of another length than the header.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    highlight: int | None = None
    words: Sequence[int] = ()
    colors: Sequence[str] = ()

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.header):
                raise ValueError(f"a row has {len(row)} cells, the header has {len(self.header)}: {list(row)}")


@cache
def environment() -> Environment:
    """The templates, and what they may call: functions of `formatting`, and the filters ``fmt`` and ``code``."""
    found = Environment(
        loader=PackageLoader("lightning_offrl.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters.update(
        fmt=format,
        code=_code,
        minus=formatting.true_minus,
        percent=formatting.percent,
        short_number=formatting.short_number,
    )
    found.globals.update(
        mean_and_error=formatting.mean_and_error,
        counted=formatting.counted,
        four_digits=formatting.four_digits,
        light={**theme.COLORS, "paper": "#f6f5f2", "card": "#ffffff", "code": "#eef0f2"},
        dark={**theme.DARK, "paper": "#12171d", "card": "#1a2129", "code": "#232c36"},
    )
    return found


def render(template: str, **values: Any) -> Markup:
    """The document that a template makes of ``values``; a number and its percent sign stay on one line."""
    return Markup(environment().get_template(template).render(values).replace(" %", "\N{NO-BREAK SPACE}%"))


def write(path: str | Path, document: str) -> Path:
    """Write a document, whole or not at all.

    Returns:
        The path.

    Raises:
        InputError: a path that does not end in ``.html``, or that cannot be written.
    """
    target = Path(path).expanduser()
    if target.suffix != ".html":
        raise InputError(f"the report is written as .html, got the path {path}; name one that ends in .html")
    try:
        write_atomically(target, document.encode(), what="the report")
    except InputError as error:  # its advice is for a training run
        reason = getattr(error.__cause__, "strerror", None) or error.__cause__
        raise InputError(f"the report cannot be written to {path} ({reason}); name another place") from error
    return target


def _code(sentence: str) -> Markup:
    """Backquoted words as code.

    >>> _code("take `a < b`")
    Markup('take <code>a &lt; b</code>')
    """
    parts = [escape(part) for part in sentence.split("`")]
    return Markup("").join(Markup("<code>{}</code>").format(p) if i % 2 else p for i, p in enumerate(parts))
