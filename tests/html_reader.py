"""A page as its elements and its text, by Python's own parser, and the rules that each of our pages keeps."""

from __future__ import annotations

import re
from collections import Counter
from html.parser import HTMLParser
from itertools import pairwise

VOID = {"meta", "link", "input", "br"}


class Reader(HTMLParser):
    """Every element with its attributes, whether it is nested well, and all text."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(attrs) == len(dict(attrs)), (tag, attrs)
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def tags(self) -> Counter[str]:
        return Counter(tag for tag, _ in self.elements)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def read_whole(page: str) -> Reader:
    """One well-formed document without scripts that asks for nothing, whose links and headings fit together."""
    read = Reader(page)
    assert read.open == []
    tags = read.tags()
    assert not tags.keys() & {"script", "iframe", "object", "embed", "img", "form", "base"}
    assert (tags["html"], tags["head"], tags["body"], tags["main"], tags["h1"]) == (1,) * 5
    assert tags["caption"] == tags["table"]
    assert all("scope" in a for a in read.all("th"))
    policy = next(a["content"] for a in read.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none';")
    assert "script-src" not in policy
    links = [a[name] for tag, a in read.elements for name in ("href", "src", "xlink:href") if name in a]
    assert {link for link in links if link and not link.startswith("#")} == {"data:,"}
    assert not re.search(r"https?://|@import|url\(", page)
    ids = [a["id"] for _, a in read.elements if "id" in a]
    assert len(ids) == len(set(ids))
    assert {a["href"] for a in read.all("a")} <= {f"#{name}" for name in ids}
    assert {a["aria-labelledby"] for _, a in read.elements if "aria-labelledby" in a} <= set(ids)
    levels = [int(tag[1]) for tag, _ in read.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert all(a["role"] == "img" and len(a["aria-label"] or "") > 30 for a in read.all("svg"))
    return read
