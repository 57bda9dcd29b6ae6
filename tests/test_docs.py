"""The documents point to what exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "benchmarks" / "README.md"])
RESULTS = sorted((ROOT / "benchmarks" / "results").glob("*.md"))  # they quote commands of their day
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
CODE = re.compile(r"`([^`\n]+)`")
FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
PATH = re.compile(r"[\w.-]+(?:/[\w.-]+)+\.(?:py|md|sh|json)")  # a name without a folder may be anybody's


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def prose(document: Path) -> str:
    return FENCED.sub("", document.read_text(encoding="utf-8"))


def anchors(document: Path) -> set[str]:
    """The fragments by which GitHub links to headings."""
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in HEADING.findall(prose(document))}


@pytest.mark.parametrize("document", [*DOCUMENTS, *RESULTS], ids=name)
def test_relative_links_lead_somewhere(document):
    for link in LINK.findall(prose(document)):
        if "://" in link:
            continue
        file, _, fragment = link.partition("#")
        target = (document.parent / file).resolve() if file else document
        assert target.exists(), f"{document.name}: {link}"
        assert not fragment or fragment in anchors(target), f"{document.name}: {link}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_named_files_exist(document):
    found = [word for code in CODE.findall(prose(document)) for word in code.split() if PATH.fullmatch(word)]
    missing = [path for path in found if not (ROOT / path).exists() and not (document.parent / path).exists()]
    assert not missing


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_curl_says_that_it_sends_json(document):
    """A server takes JSON from nobody else, so that no form of another site's page can ask for a picture."""
    commands = re.findall(r"^ *curl (?:.*\\\n)*.*$", document.read_text(encoding="utf-8"), re.MULTILINE)
    assert [command for command in commands if " -d " in command and "Content-Type: application/json" not in command] == []


def test_the_readme_is_short():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 100
    assert max(map(len, lines)) <= 120
