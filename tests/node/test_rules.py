"""Rules of selection: how they read, which fits and why not, and the hours of a day."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dicom_node.cli import rules as rules_verbs
from dicom_node.configuration import Change
from dicom_node.errors import ConfigurationError
from dicom_node.rules_document import RulesDocument, rule_from
from dicom_node.selection import judge_by_rules
from dicom_node.selection.rules import action_in_words, conditions_in_words
from dicom_node.series_traits import SeriesTraits, age_in_years
from dicom_node.settings import NodeSettings, Peer, Priority, Rule, SettingsSource, load_settings
from dicom_node.settings.daily_hours import hours_begin, hours_end

CHEST = SeriesTraits(
    calling_ae="ER1",
    called_ae="M3LUNG",
    modality="CT",
    manufacturer="SIEMENS",
    model="SOMATOM Force",
    description="Thorax 1.0 Br40",
    protocol="Thorax_Routine",
    procedure=("CT Thorax nativ", "Verdacht auf Pneumonie"),
    body_part="CHEST",
    accession="ER-0815",
    kernel="Br40d",
    thickness_mm=1.0,
    age_years=45.0,
)
BY = Change("ada", "console", "a test")


def rule(name: str = "r", **fields: Any) -> Rule:
    return Rule(name=name, **fields)


def decides(*rules: Rule, traits: SeriesTraits = CHEST, peers: tuple[Peer, ...] = ()) -> str:
    return judge_by_rules(rules, traits, peers).rule.name


def why_not(one: Rule, traits: SeriesTraits = CHEST, peers: tuple[Peer, ...] = ()) -> str:
    [miss] = judge_by_rules([one], traits, peers).misses
    return miss.words


# -- which fits ------------------------------------------------------------------------------------


def test_without_rules_the_default_is_todays_behaviour() -> None:
    found = judge_by_rules([], CHEST)
    assert found.rule == Rule(name="default")
    assert (found.rule.action, found.rule.priority) == ("analyse", Priority.NORMAL)
    assert not found.rule.shadow
    assert found.misses == ()


def test_the_first_that_fits_decides() -> None:
    rules = (rule("heads", description=["*head*"]), rule("er", calling_ae=["er*"]), rule("all"))
    found = judge_by_rules(rules, CHEST)
    assert found.rule.name == "er"
    assert [(item.rule, item.words) for item in found.misses] == [
        ("heads", 'the series description is "Thorax 1.0 Br40", not "*head*"')
    ]


@pytest.mark.parametrize(
    "fields",
    [
        {"calling_ae": ["ER?"]},
        {"called_ae": ["m3lung"]},
        {"modality": ["MR", "CT"]},
        {"manufacturer": ["siem*"]},
        {"model": ["*force"]},
        {"description": ["*THORAX*"]},
        {"protocol": ["thorax[_-]*"]},
        {"procedure": ["*pneumonie"]},
        {"body_part": ["CHEST"]},
        {"accession": ["ER-*"]},
        {"kernel": ["Br[34]*"]},
        {"min_thickness_mm": 1.0, "max_thickness_mm": 1.0},
        {"min_age_years": 18},
        {"max_age_years": 45},
        {},
    ],
)
def test_each_condition_holds(fields: dict[str, Any]) -> None:
    assert decides(rule(**fields)) == "r"
    assert len(conditions_in_words(rule(**fields))) == (1 if fields else 0)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"description": ["Thorax"]}, 'the series description is "Thorax 1.0 Br40", not "Thorax"'),
        ({"kernel": ["B70f", "Bl57"]}, 'the kernel is "Br40d", not "B70f" or "Bl57"'),
        ({"max_thickness_mm": 0.8}, "the slice thickness is 1 mm, more than 0.8 mm"),
        ({"min_age_years": 65}, "the patient's age is 45 years, less than 65 years"),
        (
            {"procedure": ["*abdomen*"]},
            'the procedure is "CT Thorax nativ" and "Verdacht auf Pneumonie", not "*abdomen*"',
        ),
    ],
)
def test_the_first_condition_that_fails_is_said(fields: dict[str, Any], words: str) -> None:
    assert why_not(rule(**fields)) == words


def test_what_a_series_does_not_state_fits_nothing() -> None:
    bare = SeriesTraits(calling_ae="X")
    assert why_not(rule(protocol=["*"]), bare) == 'the protocol is not stated; "*" is asked for'
    assert why_not(rule(max_thickness_mm=3), bare) == "the slice thickness is not stated"


def test_a_source_is_known_by_the_name_of_its_peer() -> None:
    peers = (Peer(name="er", ae_title="ER1"), Peer(name="ward", ae_title="W1"))
    assert decides(rule(source=["er"]), peers=peers) == "r"
    assert why_not(rule(source=["ward"]), peers=peers) == 'the source is er, not "ward"'
    stranger = SeriesTraits(calling_ae="X9")
    words = 'the source is no known peer (X9), not "er"'
    assert why_not(rule(source=["er"]), stranger, peers) == words


def test_no_pattern_hangs() -> None:
    cruel = rule(description=["*a" * 31 + "*b"])
    endless = SeriesTraits(description="a" * 256)
    began = time.perf_counter()
    assert why_not(cruel, endless)
    assert time.perf_counter() - began < 1.0


def test_what_a_rule_does_in_words() -> None:
    assert action_in_words(rule(action="skip", reason="No heads.")) == "not analysed: No heads."
    urgent = rule(priority="urgent", destinations=["pacs"])
    assert action_in_words(urgent) == "analysed, urgent; results go to pacs"
    shadow = rule(priority="off_peak", shadow=True)
    assert action_in_words(shadow) == "analysed off-peak; in shadow, nothing is delivered"


@pytest.mark.parametrize(
    ("text", "years"),
    [("045Y", 45.0), ("018M", 1.5), ("007D", 0.02), ("52W", 1.0), ("", None), ("old", None)],
)
def test_ages(text: str, years: float | None) -> None:
    found = age_in_years(text)
    assert found == (None if years is None else pytest.approx(years, abs=0.01))


# -- how they read ---------------------------------------------------------------------------------

DOCUMENT = """
state_dir = "state"

[[peers]]
name = "pacs"
ae_title = "PACS"
"""


@pytest.fixture
def document(tmp_path: Path) -> Path:
    path = tmp_path / "node.toml"
    path.write_text(DOCUMENT)
    return path


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ('name = "Big"', "rules.0.name"),
        ('name = "a"\npriority = "soon"', "rules.0.priority"),
        ('name = "a"\ndescription = "*x*"', "rules.0.description"),
        ('name = "a"\ndescription = [" "]', "rules.0.description.0"),
        ('name = "a"\ncolour = "red"', "rules.0.colour"),
        ('name = "a"\naction = "skip"', "reason: a skipped series needs one"),
        ('name = "a"\nreason = "why"', "reason: is of use with"),
        ('name = "a"\nshadow = true\ndestinations = ["pacs"]', "destinations: nothing is"),
        ('name = "a"\nmin_age_years = 3\nmax_age_years = 2', "min_age_years: is greater"),
        ('name = "a"\ndestinations = ["nobody"]', "rules.a.destinations: no peer is called"),
        ('name = "a"\nsource = ["nobody"]', "rules.a.source: no peer is called"),
        ('name = "default"', "rules.default.name"),
        ('name = "a"\n[[rules]]\nname = "a"', "rules.a.name: every name may stand once"),
    ],
)
def test_a_wrong_rule_is_refused_and_named(document: Path, lines: str, words: str) -> None:
    source = SettingsSource(document)
    document.write_text(f"{DOCUMENT}\n[[rules]]\n{lines}\n")
    with pytest.raises(ConfigurationError, match="rules") as caught:
        load_settings(document)
    assert words in str(caught.value)
    # A process that runs goes on with what it has.
    assert source().rules == ()
    assert words in source.error


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ('quiet_hours = ["7-9"]', "peers.0.quiet_hours.0"),
        ('quiet_hours = ["09:00-09:00"]', "begins and ends at the same time"),
        ('quiet_hours = ["12:00-00:00", "00:00-12:30"]', "they take the whole day"),
        ("quiet_hours_let_urgent = true", "there are no quiet_hours"),
    ],
)
def test_wrong_quiet_hours_are_refused_and_named(document: Path, lines: str, words: str) -> None:
    document.write_text(f"{DOCUMENT}\n{lines}\n")
    with pytest.raises(ConfigurationError) as caught:
        load_settings(document)
    assert words in str(caught.value)


# -- hours -----------------------------------------------------------------------------------------


@pytest.fixture(params=["UTC", "Europe/Berlin", "Asia/Kolkata"])
def zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield request.param
    monkeypatch.undo()
    time.tzset()


def at(hour: int, minute: int = 0) -> float:
    return time.mktime((2026, 3, 3, hour, minute, 0, 0, 0, -1))


@pytest.mark.usefixtures("zone")
@pytest.mark.parametrize(
    ("hours", "now", "end"),
    [
        (["07:00-09:30"], (7, 0), "09:30"),
        (["07:00-09:30"], (9, 29), "09:30"),
        (["07:00-09:30"], (9, 30), ""),
        (["07:00-09:30"], (6, 59), ""),
        (["22:00-06:00"], (23, 0), "06:00"),
        (["22:00-06:00"], (0, 0), "06:00"),
        (["22:00-06:00"], (12, 0), ""),
        (["07:00-09:30", "09:30-12:00"], (8, 0), "12:00"),
        (["22:00-24:00", "00:00-02:00"], (23, 0), "02:00"),
        (["07:00-08:00", "07:30-09:00"], (7, 45), "09:00"),
        ([], (8, 0), ""),
    ],
)
def test_when_hours_end(hours: list[str], now: tuple[int, int], end: str) -> None:
    assert hours_end(hours, at(*now)) == end


@pytest.mark.usefixtures("zone")
def test_when_hours_begin() -> None:
    assert hours_begin(["19:00-07:00"], at(12)) == "19:00"
    assert hours_begin(["19:00-23:00", "05:00-06:00"], at(23, 30)) == "05:00"
    assert hours_begin([], at(12)) == ""


def test_quiet_hours_of_a_peer() -> None:
    quiet = {"quiet_hours": ["07:00-09:30"], "quiet_hours_let_urgent": True}
    settings = NodeSettings(peers=[{"name": "pacs", "ae_title": "P", **quiet}])
    found = settings.quiet(at(8))
    assert (found["pacs"].until, found["pacs"].hold("urgent")) == ("09:30", False)
    assert found["pacs"].hold("normal")
    assert settings.quiet(at(10)) == {}


# -- the document ----------------------------------------------------------------------------------


def test_rules_are_added_moved_replaced_and_removed_in_place(document: Path) -> None:
    document.write_text(DOCUMENT + "\n# The last words.\n[selection]\nmin_slices = 30  # fewer\n")
    rules = RulesDocument(document)
    rules.add(rule("a", description=["*x*"], min_thickness_mm=1.0), BY)
    rules.add(rule("b", action="skip", reason='Not "here".'), BY)
    text = document.read_text().replace('[[rules]]\nname = "b"', '# Of b.\n[[rules]]\nname = "b"')
    document.write_text(text)
    rules.move("b", -1, BY)
    assert [item.name for item in rules.rules()] == ["b", "a"]
    assert '# Of b.\n[[rules]]\nname = "b"' in document.read_text()
    rules.replace("b", rule("c", priority="off_peak"), BY)
    assert rules.rules() == (
        rule("c", priority="off_peak"),
        rule("a", description=["*x*"], min_thickness_mm=1.0),
    )
    assert '# Of b.\n[[rules]]\nname = "c"' in document.read_text()
    rules.remove("c", BY)
    rules.remove("a", BY)
    text = document.read_text()
    assert "[[rules]]" not in text
    assert "# The last words.\n[selection]\nmin_slices = 30  # fewer" in text
    assert load_settings(document).selection.min_slices == 30


def test_rules_stand_before_other_tables_too(document: Path) -> None:
    document.write_text('[[rules]]\nname = "a"\n\n[[peers]]\nname = "p"\nae_title = "P"\n')
    rules = RulesDocument(document)
    rules.add(rule("b", destinations=["p"]), BY)
    assert [item.name for item in rules.rules()] == ["a", "b"]
    rules.remove("a", BY)
    rules.remove("b", BY)
    assert document.read_text() == '[[peers]]\nname = "p"\nae_title = "P"\n'


@pytest.mark.parametrize(
    "text",
    [
        'rules = [{ name = "a" }]\n',
        '[[rules]]\nname = "a"\naction = "skip"\nreason = """\n[[rules]]\n"""\n',
    ],
)
def test_what_cannot_be_edited_is_left_as_it_is(document: Path, text: str) -> None:
    document.write_text(text)
    with pytest.raises(ConfigurationError, match="by hand"):
        RulesDocument(document).add(rule("b"), BY)
    assert document.read_text() == text


def test_the_command_lists_and_tries_rules(document: Path) -> None:
    document.write_text(
        DOCUMENT + '[[rules]]\nname = "heads"\ndescription = ["*head*"]\naction = "skip"\n'
        'reason = "No heads."\n'
    )
    listed = CliRunner().invoke(rules_verbs.app, ["list", "--config", str(document)])
    assert listed.exit_code == 0, listed.output
    assert "not analysed: No heads." in listed.output
    assert "default" in listed.output
    as_json = CliRunner().invoke(rules_verbs.app, ["list", "--json", "--config", str(document)])
    [told] = json.loads(as_json.output)
    assert (told["name"], told["description"]) == ("heads", ["*head*"])
    tried = CliRunner().invoke(rules_verbs.app, ["test", "--config", str(document)])
    assert (tried.exit_code, tried.output) == (0, "No series has arrived yet.\n")


def test_a_change_that_breaks_the_document_is_refused(document: Path) -> None:
    rules = RulesDocument(document)
    for make, words in (
        (lambda: rules.add(rule("a", destinations=["nobody"]), BY), "no peer is called 'nobody'"),
        (lambda: rules.remove("a", BY), "no rule is called 'a'; known: none"),
        (lambda: rules.add(rule("a"), BY, seen="0" * 16), "changed meanwhile"),
        (lambda: rule_from({"name": "A"}), "name: small letters"),
        (lambda: rule_from({"name": "a", "priority": "soon"}), "priority: "),
    ):
        with pytest.raises(ConfigurationError) as caught:
            make()
        assert words in str(caught.value)
    assert document.read_text() == DOCUMENT
