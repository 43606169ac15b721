from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from lightning_offrl.reports import html, plots
from lightning_offrl.reports.html import Markup

VOID = {"meta", "br", "img", "hr", "input", "link"}


class Balanced(HTMLParser):
    """Checks that every element is closed, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)


def outside_references(document: str) -> list[str]:
    """Everything that a browser would fetch."""
    found = re.findall(r'(?:src|href)="(?!data:|#)([^"]+)"', document)
    return found + re.findall(r"url\((?!#|data:)([^)]+)\)", document) + re.findall(r"@import[^;]+", document)


def test_a_page_is_whole_and_fetches_nothing() -> None:
    figure = plots.svg(plots.histogram([1.0, 2.0, 4.0], x_label="return"), "Histogram")
    page = html.page(
        "A <title>",
        html.section("Part", html.table(["a", "b"], [["x", "1"]], caption="c", highlight=0), html.commands("x < y")),
        html.grid(html.figure(figure, "Figure", "caption")),
        html.tiles([("1", "one")]),
        eyebrow="above",
        footer="below",
    )
    parser = Balanced()
    parser.feed(page)
    assert not parser.open
    assert "svg" in parser.seen
    assert outside_references(page) == []
    assert "<title>A &lt;title&gt;</title>" in page
    assert "prefers-color-scheme: dark" in page
    assert 'name="viewport"' in page


def test_every_color_has_a_dark_version() -> None:
    assert set(plots.COLORS) == set(html._DARK)


def test_text_is_escaped_once() -> None:
    assert html.text(html.text("a & b")) == "a &amp; b"
    assert html.table(["<i>"], [[Markup("<b>x</b>")]]).count("<b>") == 1
    assert "&lt;i&gt;" in html.table(["<i>"], [["x"]])


def test_a_ragged_table_is_refused() -> None:
    with pytest.raises(ValueError, match="a row has 1 cells, the header has 2"):
        html.table(["a", "b"], [["x"]])


def test_highlight_and_words_mark_the_right_cells() -> None:
    table = html.table(["a", "b", "c"], [["x", "y", "1"], ["z", "w", "2"]], highlight=1, words=[1])
    assert table.count("class=best") == 1
    assert table.index("class=best") > table.index("<td>1</td>")
    assert '<td class="words">w</td>' in table


def test_write_leaves_nothing_else_behind(tmp_path: Path) -> None:
    target = html.write(tmp_path / "deep" / "page.html", "one")
    html.write(target, "two")
    assert target.read_text() == "two"
    assert [path.name for path in target.parent.iterdir()] == ["page.html"]
