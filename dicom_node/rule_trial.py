"""What rules would do with the series that came last: a trial that changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dicom_node.ledger import Ledger, RecentSeries
from dicom_node.selection.rules import Judgement, judge_by_rules
from dicom_node.settings import NodeSettings, Rule

__all__ = ["Trial", "try_rules"]


@dataclass(frozen=True, slots=True)
class Trial:
    """What would become of one series by its rules."""

    series: RecentSeries
    judgement: Judgement

    @property
    def differs(self) -> bool:
        """Whether another rule decided when the series came."""
        return self.series.rule not in ("", self.judgement.rule.name)

    def document(self) -> dict[str, Any]:
        """Return it for programs; no patient is named."""
        rule = self.judgement.rule
        return {
            "series_id": self.series.series_id,
            "series_instance_uid": self.series.series_instance_uid,
            "accession_number": self.series.accession_number,
            "description": self.series.traits.description,
            "calling_ae": self.series.traits.calling_ae,
            "state": self.series.state,
            "rule": rule.name,
            "rule_then": self.series.rule,
            "action": rule.action,
            "reason": rule.reason,
            "priority": str(rule.priority),
            "destinations": list(rule.destinations),
            "shadow": rule.shadow,
            "why_not": {item.rule: item.words for item in self.judgement.misses},
        }


def try_rules(
    ledger: Ledger, settings: NodeSettings, last: int, rules: Sequence[Rule] | None = None
) -> list[Trial]:
    """Return what would become of the `last` series, the newest first.

    Parameters
    ----------
    rules : sequence of Rule or None
        Rules that are being edited; None: those in force.
    """
    asked = settings.rules if rules is None else rules
    return [
        Trial(series, judge_by_rules(asked, series.traits, settings.peers))
        for series in ledger.traits.recent(last)
    ]
