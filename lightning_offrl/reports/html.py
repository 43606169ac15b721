"""One HTML file that opens anywhere: no outside resource, light and dark, wide and narrow.

Blocks are built by small functions that return `Markup`; everything else that is put into them is escaped.

>>> table(["policy", "return"], [["BC", "-900 < 0"]], caption="Scores").count("&lt;")
1
"""

from __future__ import annotations

import html
import os
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path

from lightning_offrl.reports.plots import COLORS


class Markup(str):
    """Text that is HTML already and is not escaped again."""

    __slots__ = ()


Block = str | Markup


def text(value: object) -> Markup:
    """Escape anything that is not `Markup`.

    >>> text("a < b"), text(Markup("<b>a</b>"))
    ('a &lt; b', '<b>a</b>')
    """
    return value if isinstance(value, Markup) else Markup(html.escape(str(value)))


def join(blocks: Iterable[Block]) -> Markup:
    """Blocks one after the other."""
    return Markup("\n".join(text(block) for block in blocks))


def paragraph(content: Block, kind: str = "") -> Markup:
    """A paragraph; ``kind`` is a class of the page: ``lead`` or ``note``."""
    return Markup(f'<p class="{kind}">{text(content)}</p>' if kind else f"<p>{text(content)}</p>")


def section(title: str, *blocks: Block) -> Markup:
    """A part of the page under its own heading."""
    return Markup(f"<section>\n<h2>{text(title)}</h2>\n{join(blocks)}\n</section>")


def grid(*blocks: Block, smallest: int = 330) -> Markup:
    """Blocks side by side as far as the width allows.

    Args:
        blocks: usually figures.
        smallest: pixels under which a column gives way and the blocks stand one below the other.
    """
    return Markup(f'<div class="grid" style="--smallest:{smallest}px">\n{join(blocks)}\n</div>')


def figure(picture: str, title: str, caption: Block = "") -> Markup:
    """A picture (``<svg>`` or ``<img>`` markup) in a frame, with what it shows above and how to read it below."""
    below = f"<p>{text(caption)}</p>" if caption else ""
    return Markup(f"<figure>\n<figcaption><h3>{text(title)}</h3>{below}</figcaption>\n{picture}\n</figure>")


def tiles(facts: Sequence[tuple[object, str]]) -> Markup:
    """A row of numbers, each with what it counts."""
    cells = "".join(f"<div><dd>{text(value)}</dd><dt>{text(name)}</dt></div>" for value, name in facts)
    return Markup(f'<dl class="tiles">{cells}</dl>')


def swatch(color: str) -> Markup:
    """A dot in the color of a role, to tie a row of a table to a line of a figure."""
    return Markup(f'<i class="swatch" style="background:var(--{color})"></i>')


def table(
    header: Sequence[Block],
    rows: Sequence[Sequence[Block]],
    *,
    caption: str = "",
    highlight: int | None = None,
    words: Sequence[int] = (),
) -> Markup:
    """A table: the first column names the row, the others hold numbers and stand right-aligned.

    Args:
        header: one title per column.
        rows: as many cells each.
        caption: what the table shows.
        highlight: index of the row to stress.
        words: indices of columns with running text, which stands left-aligned and wraps.

    Raises:
        ValueError: a row of another length than the header.
    """
    for row in rows:
        if len(row) != len(header):
            raise ValueError(f"a row has {len(row)} cells, the header has {len(header)}: {list(row)}")
    kind = [' class="words"' if i in words else "" for i in range(len(header))]
    head = "".join(f'<th scope="col"{k}>{text(cell)}</th>' for k, cell in zip(kind, header, strict=True))
    body = "\n".join(
        f'<tr{" class=best" if i == highlight else ""}><th scope="row">{text(row[0])}</th>'
        + "".join(f"<td{k}>{text(cell)}</td>" for k, cell in zip(kind[1:], row[1:], strict=True))
        + "</tr>"
        for i, row in enumerate(rows)
    )
    title = f"<caption>{text(caption)}</caption>" if caption else ""
    return Markup(
        f'<div class="scroll"><table>{title}\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>'
    )


def commands(lines: str) -> Markup:
    """Commands or code to copy."""
    return Markup(f"<pre><code>{text(lines.strip())}</code></pre>")


def page(title: str, *blocks: Block, eyebrow: str = "", footer: Block = "", style: str = "") -> Markup:
    """The whole document.

    Args:
        title: of the window and the page.
        blocks: the page, from top to bottom.
        eyebrow: a short line above the title.
        footer: a small line at the end.
        style: more CSS, for this page alone.
    """
    above = f'<p class="eyebrow">{text(eyebrow)}</p>' if eyebrow else ""
    below = f"<footer>{text(footer)}</footer>" if footer else ""
    return Markup(
        f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{text(title)}</title>
<style>{_variables()}
{_style()}{style}</style>
</head>
<body>
<main>
<header>{above}<h1>{text(title)}</h1></header>
{join(blocks)}
{below}
</main>
</body>
</html>
"""
    )


def write(path: str | Path, document: str) -> Path:
    """Write a document whole or not at all (a temporary name, then a rename).

    Returns:
        The path.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.part")
    draft.write_text(document, encoding="utf-8")
    os.replace(draft, path)
    return path


_DARK = {
    "ink": "#e4e9ee",
    "muted": "#98a5b3",
    "rule": "#303b47",
    "data": "#9aa7b5",
    "series-1": "#f0a04b",
    "series-2": "#5db2ee",
    "series-3": "#3fcfa0",
    "series-4": "#e08bc4",
    "series-5": "#d9b84a",
    "step-1": "#5b4669",
    "step-2": "#8561a0",
    "step-3": "#b18fd0",
    "step-4": "#e3d0f2",
}


def _style() -> str:
    return files(__package__).joinpath("style.css").read_text(encoding="utf-8")


def _variables() -> str:
    light = {**COLORS, "paper": "#f6f5f2", "card": "#ffffff", "code": "#eef0f2"}
    dark = {**_DARK, "paper": "#12171d", "card": "#1a2129", "code": "#232c36"}
    both = ["".join(f"--{name}:{color};" for name, color in theme.items()) for theme in (light, dark)]
    return f":root{{{both[0]}}}@media (prefers-color-scheme: dark){{:root{{{both[1]}}}}}"
