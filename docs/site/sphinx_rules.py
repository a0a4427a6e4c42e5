# SPDX-License-Identifier: Apache-2.0
"""Links from "decision 31", "C4.2-6" and "contract 7.1" to where the contract says it.

The pages and the docstrings stay plain text. A decision or rule that the contract does not have is
a warning, and warnings are errors in ``nox -s docs``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import fidelity
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util import logging

LOGGER = logging.getLogger(__name__)
FOLDER = "docs/contract/"
DECISIONS = f"{FOLDER}10-decisions"
ROW = re.compile(r"^\| (\d+) \|", re.MULTILINE)
SECTION = r"\d+(?:\.\d+)*"
MENTION = re.compile(
    rf"(?P<rule>{fidelity.ID})"
    rf"|\b[Dd]ecisions? (?P<decisions>\d+(?:(?:, | and )\d+)*)"
    rf"|\b(?:contract chapter|contract|Source:(?: contract| chapter| an own extension,)*)"
    rf"\s(?P<section>{SECTION})"
)
NO_LINKS_IN = (nodes.literal, nodes.literal_block, nodes.reference, nodes.title, nodes.raw)


class Places:
    """Where the contract has each rule, each decision and each section: document and anchor."""

    def __init__(self) -> None:
        problems: list[tuple[int, str]] = []
        self.rules: dict[str, tuple[str, str]] = {}
        self.sections: dict[str, tuple[str, str]] = {}
        for section in fidelity.read_sections(fidelity.CONTRACT, problems):
            page = FOLDER + section.path.stem
            self.sections[section.number] = (page, f"section-{section.number}")
            for rule in section.rules:
                self.rules[rule.id] = (page, rule.id)
        text = (fidelity.CONTRACT / "10-decisions.md").read_text(encoding="utf-8")
        numbers = ROW.findall(text)
        self.decisions = {number: (DECISIONS, f"decision-{number}") for number in numbers}


class Targets(SphinxTransform):
    """Gives rules, decisions and sections of the contract their anchors."""

    default_priority = 500

    def apply(self, **_: Any) -> None:
        """Add the anchors to one page."""
        page = self.env.docname
        if not page.startswith(FOLDER):
            return
        for section in self.document.findall(nodes.section):
            number = re.match(SECTION, section[0].astext())
            if number:
                section["ids"].append(f"section-{number[0]}")
        if page == DECISIONS:
            for row in self.document.findall(nodes.row):
                if row[0].astext().isdigit():
                    row[0]["ids"].append(f"decision-{row[0].astext()}")
        for text in list(self.document.findall(nodes.Text)):
            tags = list(fidelity.TAG.finditer(text))
            if tags and not isinstance(text.parent, nodes.literal):
                pieces: list[nodes.Node] = []
                end = 0
                for tag in tags:
                    pieces += [nodes.Text(text[end : tag.start()])]
                    pieces += [nodes.inline("", tag[0], ids=[tag["id"]], classes=["rule"])]
                    end = tag.end()
                pieces += [nodes.Text(text[end:])]
                text.parent.replace(text, pieces)


class Links(SphinxPostTransform):
    """Makes links of what mentions a rule, a decision or a section of the contract."""

    default_priority = 900

    def run(self, **_: Any) -> None:
        """Replace the mentions in one page."""
        places: Places = self.app.rule_places  # type: ignore[attr-defined]
        for text in list(self.document.findall(nodes.Text)):
            if MENTION.search(text) and not _is_within(text, NO_LINKS_IN):
                text.parent.replace(text, list(self._linked(text, places)))

    def _linked(self, text: nodes.Text, places: Places) -> Iterator[nodes.Node]:
        end = 0
        for mention in MENTION.finditer(text):
            for start, stop, known, name in _names(mention, places):
                if name not in known:
                    LOGGER.warning("the contract has no %s", mention[0], location=text.parent)
                    continue
                page, anchor = known[name]
                if mention["rule"] and page == self.env.docname and anchor in text.parent["ids"]:
                    continue  # The place itself.
                yield nodes.Text(text[end:start])
                target = self.app.builder.get_relative_uri(self.env.docname, page)
                yield nodes.reference(
                    "", text[start:stop], internal=True, refuri=f"{target}#{anchor}"
                )
                end = stop
        yield nodes.Text(text[end:])


def _names(
    mention: re.Match[str], places: Places
) -> Iterator[tuple[int, int, dict[str, tuple[str, str]], str]]:
    if mention["rule"]:
        yield *mention.span(), places.rules, mention["rule"]
    elif mention["section"]:
        yield *mention.span(), places.sections, mention["section"]
    else:
        first = mention.start("decisions")
        for number in re.finditer(r"\d+", mention["decisions"]):
            start, stop = number.span()
            # The word belongs to the first number.
            begin = mention.start() if start == 0 else first + start
            yield begin, first + stop, places.decisions, number[0]


def _is_within(node: nodes.Node, kinds: tuple[type, ...]) -> bool:
    parent = node.parent
    while parent is not None:
        if isinstance(parent, kinds):
            return True
        parent = parent.parent
    return False


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the two transforms with Sphinx."""
    app.rule_places = Places()  # type: ignore[attr-defined]
    app.add_transform(Targets)
    app.add_post_transform(Links)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
