"""``m3lung rules``: which rules there are, and what they would do with the last series."""

from __future__ import annotations

import time
from collections import Counter
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from dicom_node.cli.terminal import ConfigOption, JsonOption, out, print_json, settings_source
from dicom_node.node_ledger import open_node_ledger
from dicom_node.rule_trial import Trial, try_rules
from dicom_node.selection.rules import action_in_words, conditions_in_words

__all__ = ["app", "register"]

app = typer.Typer(
    no_args_is_help=True,
    help="Rules of selection: tables named rules in node.toml, asked in order. The first whose "
    "conditions all hold decides whether a series is analysed, how soon, and who gets the results.",
)


@app.command("list")
def list_rules(json: JsonOption = False, config: ConfigOption = None) -> None:
    """List the rules in the order in which they are asked."""
    rules = settings_source(config)().rules
    if json:
        print_json([rule.model_dump(mode="json", exclude_defaults=True) for rule in rules])
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("", "rule", "where", "then"):
        table.add_column(heading, overflow="fold")
    for number, rule in enumerate(rules, start=1):
        where = "\n".join(conditions_in_words(rule)) or "any series"
        table.add_row(str(number), rule.name, Text(where), Text(action_in_words(rule)))
    table.add_row("", "default", "no rule fits", "analysed; results go to all destinations")
    out.print(table)


@app.command("test")
def try_on(
    last: Annotated[int, typer.Option(min=1, max=2000, help="Series to try them on.")] = 20,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Say which rule would decide about each of the last series, and why not those before it.

    Nothing is changed. Try rules before they are in force: m3lung rules test --config draft.toml
    """
    settings = settings_source(config)()
    with open_node_ledger(settings) as ledger:
        trials = try_rules(ledger, settings, last)
    if json:
        counted = Counter(trial.judgement.rule.name for trial in trials)
        print_json({"rules": dict(counted), "series": [trial.document() for trial in trials]})
    elif trials:
        out.print(_table(trials))
    else:
        out.print("No series has arrived yet.")


def _table(trials: list[Trial]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("last image", "accession", "series", "rule", "then", "why not"):
        table.add_column(heading, overflow="fold")
    for trial in trials:
        series, rule = trial.series, trial.judgement.rule
        name = f"{rule.name} (was {series.rule})" if trial.differs else rule.name
        table.add_row(
            time.strftime("%m-%d %H:%M:%S", time.localtime(series.last_arrival_at)),
            Text(series.accession_number or "-"),
            Text(series.traits.description or series.series_instance_uid),
            name,
            Text(action_in_words(rule)),
            Text("\n".join(f"{item.rule}: {item.words}" for item in trial.judgement.misses)),
        )
    return table


def register(root: typer.Typer) -> None:
    """Add the verbs to `root`."""
    root.add_typer(app, name="rules")
