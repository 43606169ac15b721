"""Figures take the colors of the report around them, and are the same bytes every time."""

from __future__ import annotations

import re

import pytest

from lightning_offrl.reports import theme
from tests.reports.figures import FIGURES, curves


def test_every_color_has_a_dark_version() -> None:
    assert set(theme.COLORS) == set(theme.DARK)
    assert not set(theme.COLORS.values()) & set(theme.DARK.values())


@pytest.mark.parametrize("name", FIGURES)
def test_svg_follows_the_theme_and_is_the_same_every_time(name: str) -> None:
    first = theme.svg(FIGURES[name](), "a <description>")
    assert first == theme.svg(FIGURES[name](), "a <description>")
    assert first.startswith('<svg role="img" aria-label="a &lt;description&gt;"')
    assert "var(--ink" in first
    # whatever color is left belongs to a picture inside, not to text or lines
    for role, color in theme.COLORS.items():
        assert first.count(color) == first.count(f"var(--{role}, {color})")
    assert "<metadata>" not in first
    assert "font-family" not in first


def test_two_figures_in_a_report_share_no_names() -> None:
    names = [set(re.findall(r'id="([^"]+)"', theme.svg(curves(), text))) for text in ("one", "two")]
    assert names[0] and not names[0] & names[1]
