"""What a run of faults came to, as Markdown for docs/reliability.md."""

from __future__ import annotations

from collections.abc import Sequence

from chaos.faults import faults_of
from chaos.hospital import Hospital
from chaos.oracle import Verdict

__all__ = ["HARMS", "markdown"]

HARMS = ("lost", "altered", "doubled", "stuck")


def markdown(hospital: Hospital, verdict: Verdict, command: str) -> str:
    """Return two tables: the totals, and how often each fault was made.

    A fault is not reached when its moment did not come: a process that was armed to die passed
    the crash point less often than the dice said.
    """
    made, missed = hospital.made, hospital.missed
    totals = [
        f"`{command}`", made.total(), verdict.acknowledged, verdict.objects,
        *(len(getattr(verdict, kind)) for kind in HARMS),
    ]  # fmt: skip
    kinds = [fault.name for fault in faults_of(hospital.topology) if fault.name in made | missed]
    lines = [
        f"Topology: {hospital.topology.words}.",
        "",
        _row(["command", "faults", "images acknowledged", "objects in the PACS", *HARMS]),
        _row(["---"] * 8),
        _row(totals),
        "",
        _row(["fault", "made", "not reached"]),
        _row(["---"] * 3),
        *(_row([name, made[name], missed[name] or ""]) for name in kinds),
        _row(["**all**", f"**{made.total()}**", missed.total() or ""]),
    ]
    if hospital.fallen:
        fallen = ", ".join(f"{name}: {count}" for name, count in sorted(hospital.fallen.items()))
        lines += ["", f"Parts that ended by themselves and were started again: {fallen}."]
    for kind in HARMS:
        lines += [f"- {kind}: {item}" for item in getattr(verdict, kind)]
    return "\n".join(lines)


def _row(cells: Sequence[object]) -> str:
    return f"| {' | '.join(map(str, cells))} |"
