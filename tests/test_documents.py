"""The documents: links lead, generated parts are current, examples run, the site builds."""

from __future__ import annotations

import os
import re
import ssl
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import typer
from pydicom import dcmread
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from dicom_node.cli.app import assemble
from dicom_node.results.context import Completeness, ResultContext, ResultOptions
from dicom_node.results.source import SourceSeries
from dicom_node.results.writer import write_results
from dicom_node.settings import NodeSettings
from dicom_node.tls import contexts as tls_contexts
from support.made_findings import made_findings, made_volume
from support.synthetic_ct import synthetic_series

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


# -- the commands that documents name -------------------------------------------------------------

FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
# Not the user or the unit of that name: those stand behind an option or an equals sign.
COMMAND = re.compile(r"(?<![\w/.=@'-])(?<!-u )(?<!exec listen )m3lung +([^\n|;&)`\]]*)")


def _commands(document: Path) -> list[str]:
    """Return what stands behind `m3lung` in shell blocks and in code within sentences."""
    text = document.read_text()
    shell = [code for language, code in FENCE.findall(text) if language == "sh"]
    blocks = "\n".join(shell).replace("\\\n", " ")
    blocks = re.sub(r"(^|\s)#.*$", "", blocks, flags=re.MULTILINE)
    inline = "\n".join(re.findall(r"`([^`\n]+)`", FENCE.sub("", text)))
    return [found.strip() for found in COMMAND.findall(f"{blocks}\n{inline}")]


def _complaint(words: list[str], command: Any) -> str:
    """Walk down the verbs as far as they are named, then look at the options."""
    options: set[str] = {"--help"}
    for position, word in enumerate(words):
        verb = word.rstrip(",")
        verbs = getattr(command, "commands", {})
        if verbs and not word.startswith("-"):
            if verb not in verbs:
                return f"no verb {verb!r}"
            if word == verb:  # "add, remove" lists sisters: stay with their parent
                command = verbs[verb]
            continue
        options |= {option for one in command.params for option in (*one.opts, *one.secondary_opts)}
        unknown = [one for one in words[position:] if re.match(r"--?[a-z]", one)]
        unknown = [one for one in unknown if one.partition("=")[0].rstrip(",") not in options]
        return f"no option {', '.join(unknown)}" if unknown else ""
    return ""


@pytest.mark.parametrize("document", DOCUMENTS, ids=_name)
def test_commands_and_options_exist(document: Path) -> None:
    root = typer.main.get_command(assemble())
    wrong = {
        line: complaint
        for line in _commands(document)
        if (complaint := _complaint(line.split(), root))
    }
    assert wrong == {}


def test_commands_are_found_and_wrong_ones_are_noticed() -> None:
    root = typer.main.get_command(assemble())
    assert len(_commands(ROOT / "docs" / "operations.md")) > 30
    assert _complaint(["peers", "add", "pacs", "--ae-title", "X"], root) == ""
    assert _complaint(["peers", "invent", "pacs"], root) == "no verb 'invent'"
    assert _complaint(["peers", "add", "pacs", "--colour", "red"], root) == "no option --colour"


def _said() -> str:
    """Everything the sources say, adjacent pieces of a text joined."""
    files = [path for part in ("dicom_node", "inference") for path in (ROOT / part).rglob("*.py")]
    return re.sub(r"[\"']\s*f?[\"']", "", "\n".join(path.read_text() for path in files))


def _quoted() -> list[str]:
    """Return the sentences that the runbook and the radiologist's page say the node says."""
    runbook = (ROOT / "docs" / "operations.md").read_text()
    symptoms = runbook.partition("## Symptom")[2].partition("## Verbs")[0]
    quoted = [words for words in re.findall(r"`([^`]+)`", symptoms) if " " in words]
    page = (ROOT / "docs" / "radiologist.md").read_text()
    weak = page.partition("## What may weaken")[2].partition("\n## ")[0]
    quoted += re.findall(r"^\| ([^|]+) \| [^|]+ \|$", weak, re.MULTILINE)[2:]
    return [words for words in quoted if not words.startswith("m3lung ") and "=" not in words]


def test_sentences_that_documents_quote_are_said() -> None:
    said = _said()
    pieces = [
        piece.strip(" .:;,")
        for words in _quoted()
        for piece in re.split(r"…|\b[nm]\b|\b\d+\b|[:;,]", words)
    ]
    pieces = [piece for piece in pieces if len(piece) > 7]
    assert len(pieces) > 20
    assert [piece for piece in pieces if piece not in said] == []


# -- the conformance statement --------------------------------------------------------------------


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> list[Dataset]:
    """Every kind of object, written and read back."""
    folder = tmp_path_factory.mktemp("conformance")
    series = synthetic_series(folder / "source", slices=12, matrix=128)
    volume = made_volume(series.paths)
    context = ResultContext(
        instance_set_digest="1" * 64,
        configuration_digest="2" * 64,
        analysis_started_at=datetime(2026, 3, 5, 14, 56, 7, tzinfo=UTC),
        completeness=Completeness("the source PACS reports as many images", 12, 12),
        software_version="0.1.0",
        ae_title="M3LUNG",
    )
    objects = write_results(
        made_findings(volume),
        volume,
        SourceSeries.read(series.paths),
        folder / "out",
        ResultOptions(),
        context,
    )
    return [dcmread(folder / "out" / item.path) for item in objects]


def _elements(dataset: Dataset) -> Iterator[DataElement]:
    yield from dataset.iterall()


def _table(name: str) -> str:
    text = (ROOT / "docs" / "conformance.md").read_text()
    return text.partition(f"<!-- table: {name} -->")[2].partition("<!-- end -->")[0]


def test_the_statement_names_what_is_written(written: list[Dataset]) -> None:
    proposed = _table("requestor contexts")
    for dataset in written:
        assert f"`{dataset.SOPClassUID}`" in proposed
    classes = {str(dataset.SOPClassUID) for dataset in written}
    assert set(re.findall(r"`([0-9.]{10,})`", proposed)) == classes


def test_the_statement_lists_every_code_that_is_written(written: list[Dataset]) -> None:
    listed = set(re.findall(r"^\| `([^`]+)` \| (\S+) \|", _table("codes"), re.MULTILINE))
    used = {
        (item.CodeValue, item.CodingSchemeDesignator)
        for dataset in written
        for element in _elements(dataset)
        if element.VR == "SQ"
        for item in element.value
        if "CodeValue" in item
    }
    assert len(used) > 40
    assert used <= listed


def test_the_statement_names_every_template(written: list[Dataset]) -> None:
    page = (ROOT / "docs" / "conformance.md").read_text()
    used = {
        str(element.value)
        for dataset in written
        for element in _elements(dataset)
        if element.keyword == "TemplateIdentifier"
    }
    assert used >= {"1500", "2010"}
    assert {number for number in used if f"TID {number}" not in page} == set()


def test_the_statement_names_every_answer_to_a_post() -> None:
    sources = "".join(path.read_text() for path in (ROOT / "dicom_node" / "stow").glob("*.py"))
    given = set(re.findall(r"(?:Refusal|Denied)\((\d{3})", sources)) | {"200", "202", "409"}
    assert len(given) > 10
    listed = set(re.findall(r"^\| (\d{3}) \|", _table("stow answers"), re.MULTILINE))
    assert listed - given == {"431", "501"}  # h11's own
    assert given <= listed


def test_no_private_attribute_is_written(written: list[Dataset]) -> None:
    private = {e.tag for dataset in written for e in _elements(dataset) if e.tag.is_private}
    assert private == set()


def test_ciphers_are_those_of_the_page() -> None:
    tls = NodeSettings.model_fields["tls"].default
    assert tls.port == 2762
    page = (ROOT / "docs" / "security.md").read_text()
    assert "ECDHE with AES-GCM or ChaCha20-Poly1305" in page
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers(tls_contexts._CIPHERS_TLS12)
    names = [cipher["name"] for cipher in context.get_ciphers() if cipher["protocol"] != "TLSv1.3"]
    assert names
    suite = re.compile(r"ECDHE-\w+-(AES\d+-GCM-\w+|CHACHA20-POLY1305)")
    assert [name for name in names if not suite.fullmatch(name)] == []


# -- the site -------------------------------------------------------------------------------------


class _Page(HTMLParser):
    """Collects what a page makes the browser fetch by itself, and the classes it uses."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.classes: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attributes}
        self.classes |= set(found.get("class", "").split())
        fetching = ("href",) if tag == "link" else ("src", "srcset", "data", "poster")
        self.fetched += [found[name] for name in fetching if name in found]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip(
        "material", reason="the site is made by mkdocs-material (pip install .[docs])"
    )
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stdout + done.stderr
    return folder


def test_the_site_holds_every_page(site: Path) -> None:
    pages = {
        page.relative_to(ROOT / "docs").with_suffix("") for page in (ROOT / "docs").rglob("*.md")
    }
    assert {
        str(page) for page in pages if not (site / page).with_suffix(".html").is_file()
    } == set()
    for outside in ("deploy/index.html", "CHANGELOG.html", "CONTRIBUTING.html"):
        assert (site / outside).is_file()


def test_the_site_asks_nobody_for_anything(site: Path) -> None:
    for path in site.rglob("*.html"):
        page = _Page(path.read_text())
        assert [where for where in page.fetched if "//" in where] == [], path.name
        # Material would fetch this one from elsewhere, where a page has such a drawing.
        assert "mermaid" not in page.classes, path.name
    for path in site.rglob("*.css"):
        outside = re.findall(
            r"(?:@import|url\()\s*[\"']?((?:https?:)?//[^\"')]+)", path.read_text()
        )
        assert outside == [], path.name


def test_the_site_shows_no_raw_markup(site: Path) -> None:
    for path in site.rglob("*.html"):
        text = re.sub(r"<(script|pre|code)\b.*?</\1>", "", path.read_text(), flags=re.DOTALL)
        words = re.sub(r"<!--.*?-->|<[^>]+>", "", text, flags=re.DOTALL)
        assert not re.search(r"^\s*(\||#{2,} |```|!!! |\{:)", words, re.MULTILINE), path.name


def test_each_place_of_the_guide_is_named_once() -> None:
    guide = (ROOT / "docs" / "administrator.md").read_text()
    places = re.findall(r"\{: #place-(\w+) \}", guide)
    assert len(places) == len(set(places))
