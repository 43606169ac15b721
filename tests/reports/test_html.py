"""The parts that reports are made of, and the file that they are written to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from markupsafe import Markup

from lightning_offrl.errors import InputError
from lightning_offrl.reports import html, plots, theme
from lightning_offrl.reports.html import Table
from tests.reports.html_checks import checked

PARTS = """{% extends "base.html.j2" %}
{% from "blocks.html.j2" import badge, figure, grid, section, table, tiles %}
{% block eyebrow %}above{% endblock %}
{% block content %}
{% call section("Part") %}{{ table(t) }}{{ badge("refuse", "No") }}{% endcall %}
{% call grid() %}{{ figure(picture, "Figure", "caption < 1") }}{% endcall %}
{{ tiles([(1, "one"), ("50 %", "half")]) }}
{% endblock %}
{% block footer %}below{% endblock %}"""


def drawn(template: str, **values: Any) -> str:
    return html.environment().from_string(template).render(values)


def table(t: Table) -> str:
    return drawn('{% from "blocks.html.j2" import table %}{{ table(t) }}', t=t)


def test_a_report_is_whole_and_fetches_nothing() -> None:
    picture = theme.svg(plots.histogram([1.0, 2.0, 4.0], x_label="return"), "Histogram")
    t = Table(["a", "b"], [["x", "1"]], caption="c", highlight=0)
    report = checked(drawn(PARTS, title="A <title>", picture=picture, t=t))
    assert report.count("<svg") == 1 and "caption &lt; 1" in report
    assert "<title>A &lt;title&gt;</title>" in report and "<h1>A &lt;title&gt;</h1>" in report
    assert "prefers-color-scheme: dark" in report
    assert 'name="viewport"' in report


def test_text_is_escaped_once() -> None:
    assert "a &amp; b" in table(Table(["<i>"], [["a & b"]]))
    assert table(Table(["<i>"], [[Markup("<b>x</b>")]])).count("<b>") == 1
    assert "&lt;i&gt;" in table(Table(["<i>"], [["x"]]))


def test_a_ragged_table_is_refused() -> None:
    with pytest.raises(ValueError, match="a row has 1 cells, the header has 2"):
        Table(["a", "b"], [["x"]])


def test_highlight_words_and_colors_mark_the_right_cells() -> None:
    rows = [["x", "y", "1"], ["z", "w", "2"]]
    found = table(Table(["a", "b", "c"], rows, highlight=1, words=[1], colors=["data", "ink"]))
    assert found.count("class=best") == 1
    assert found.index("class=best") > found.index("<td>1</td>")
    assert '<td class="words">w</td>' in found and found.count('class="words"') == 3
    assert '<i class="swatch" style="background:var(--ink)"></i>z' in found


def test_a_missing_value_is_an_error() -> None:
    with pytest.raises(Exception, match="'t' is undefined"):
        drawn('{% from "blocks.html.j2" import table %}{{ table(t) }}')


def test_code_is_marked_and_escaped() -> None:
    assert drawn("{{ s|code }}", s="take `a < b` & go") == "take <code>a &lt; b</code> &amp; go"


def test_write_leaves_nothing_else_behind(tmp_path: Path) -> None:
    target = html.write(tmp_path / "deep" / "report.html", "one")
    html.write(target, "two")
    assert target.read_text() == "two"
    assert [path.name for path in target.parent.iterdir()] == ["report.html"]


def test_where_it_cannot_be_written_is_said() -> None:
    with pytest.raises(InputError, match="the report is written as .html, got the path report.pdf"):
        html.write("report.pdf", "")
    with pytest.raises(InputError, match="the report cannot be written to /proc/none/x.html .*; name another place"):
        html.write("/proc/none/x.html", "")
