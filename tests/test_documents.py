"""The documents: links lead somewhere, generated parts are current, examples run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "deploy").rglob("*.md")]
)
EXAMPLE = re.compile(r"^<!-- run -->\n```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("document", DOCUMENTS, ids=_name)
def test_links_lead_somewhere(document: Path) -> None:
    text = re.sub(r"^```.*?^```", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text)
    local = [target for target in targets if not target.startswith(("http://", "https://"))]
    missing = [target for target in local if not (document.parent / target).exists()]
    assert missing == []


def test_readme_fits_two_screens() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 90


def test_what_is_written_from_the_sources_is_current() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "write_documents.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}{done.stderr}run: make docs"


def test_every_setting_says_what_it_means() -> None:
    reference = (ROOT / "docs" / "configuration.md").read_text()
    without_meaning = [line for line in reference.splitlines() if line.endswith("|  |")]
    assert without_meaning == [], "a comment on the field's line, or its docstring's Attributes"


def test_changelog_keeps_its_form() -> None:
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == "[Unreleased]"
    released = re.compile(r"\[\d+\.\d+\.\d+\] - \d{4}-\d{2}-\d{2}")
    assert all(released.fullmatch(heading) for heading in headings[1:])


def _examples() -> list[tuple[str, str, str]]:
    return [
        (f"{_name(document)}:{text[: found.start()].count(chr(10)) + 1}", found[1], found[2])
        for document in DOCUMENTS
        for text in [document.read_text()]
        for found in EXAMPLE.finditer(text)
    ]


def test_some_examples_are_marked_to_run() -> None:
    assert any(place.startswith("README.md") for place, _, _ in _examples())


@pytest.mark.parametrize(
    ("language", "code"),
    [pytest.param(language, code, id=place) for place, language, code in _examples()],
)
def test_example_runs(language: str, code: str, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("M3LUNG_")
    } | {
        "HOME": str(home),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    run = {"sh": ["bash", "-euo", "pipefail", "-c", code], "python": [sys.executable, "-c", code]}
    done = subprocess.run(
        run[language],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_reliability_page_names_tests_that_exist() -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs/reliability.md").read_text()))
    assert len(named) > 30
    sources = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    assert {name for name in named if f"def {name}(" not in sources} == set()
