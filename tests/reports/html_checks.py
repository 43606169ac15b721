"""What every report as HTML has to be: well-formed, and without anything that a browser would fetch."""

from __future__ import annotations

import re
from html.parser import HTMLParser

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


def checked(document: str) -> str:
    """The document, if it is well-formed, fetches nothing, and uses no id twice; with single blanks as white space."""
    parser = Balanced()
    parser.feed(document)
    assert not parser.open and outside_references(document) == []
    ids = re.findall(r'id="([^"]+)"', document)
    assert len(ids) == len(set(ids))
    return " ".join(document.split())
