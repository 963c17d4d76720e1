"""Reads built pages as a browser's parser would, without one."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from typing import Any, NamedTuple

VOID = ("br", "img", "input", "link", "meta", "path", "circle")


class Element(NamedTuple):
    """One element, with the attributes of all that it stands in (the nearest win) and all its text."""

    tag: str
    attributes: dict[str, str]
    context: dict[str, str]
    text: list[str]

    @property
    def said(self) -> str:
        """Its text, spaces as one."""
        return re.sub(r"\s+", " ", "".join(self.text)).strip()


class Page(HTMLParser):
    """All elements of a page."""

    def __init__(self, content: bytes) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[Element] = []
        self._open: list[Element] = []
        self.feed(content.decode())
        assert self._open == [], f"never closed: {[element.tag for element in self._open]}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        own = {name: value or "" for name, value in attrs}
        context = {**(self._open[-1].context if self._open else {}), **own}
        element = Element(tag, own, context, [])
        self.elements.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        assert self._open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        for element in self._open:
            element.text.append(data)

    def find(self, tag: str, *attributes: str) -> list[Element]:
        """Elements of a kind that have these attributes."""
        return [e for e in self.elements if e.tag == tag and all(name in e.attributes for name in attributes)]


def data_of(script: bytes) -> list[tuple[str, str, Any]]:
    """What a data script hands to the page: kind, key and value of every call in it."""
    calls = [line for line in script.decode().splitlines() if line.startswith("imlData(")]
    found = [json.loads(f"[{line.removeprefix('imlData(').removesuffix(');')}]") for line in calls]
    return [(kind, key, value) for kind, key, value in found]
