"""The rows of Tables II to V: what each one trains, and in which tables it stands."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from training.baselines.rivals import RIVALS

__all__ = ["ROWS", "TABLES", "TABLE_TITLES", "Row", "chosen_rows"]

TableName = Literal["ii", "iii", "iv", "v"]
Kind = Literal["slices", "head", "rival"]

FEATURES_ROW = "slices-coordinates"  # whose features every head reads
OURS = "head-refined"


@dataclass(frozen=True, slots=True)
class Row:
    """One training and its reading of the test patients.

    Attributes
    ----------
    key, title : str
        In files and options; in tables.
    kind : "slices", "head" or "rival"
        slices: a slice network, its patients read by counting slices (T = 0.99). head: a patient
        network on the features of the full slice network. rival: a network of
        :mod:`training.baselines`.
    changes : mapping
        Of the parameters of the slice or patient network.
    """

    key: str
    title: str
    kind: Kind
    changes: Mapping[str, object]


def _slices(key: str, title: str, multitask: bool, attention: bool, coordinates: bool) -> Row:
    changes = {"multitask": multitask, "attention": attention, "coordinates": coordinates}
    return Row(f"slices-{key}", title, "slices", MappingProxyType(changes))


def _head(key: str, title: str, **changes: object) -> Row:
    return Row(f"head-{key}", title, "head", MappingProxyType(changes))


ROWS: Mapping[str, Row] = MappingProxyType(
    {
        row.key: row
        for row in (
            _slices("resnet", "ResNet", False, False, False),
            _slices("multitask", "+ multi-task", True, False, False),
            _slices("attention", "+ attention", True, True, False),
            _slices("coordinates", "+ coordinates", True, True, True),
            _head("max", "Max pooling"),
            _head("single", "Single scale S = [3] + A. head", scales=(3,), refinement_layers=0),
            _head("multi", "Multi-scale + A. head", refinement_layers=0),
            _head("refined", "Multi-scale + R. & A. head (attention between slices)"),
            _head(
                "refined-feature",
                "Multi-scale + R. & A. head (attention between features, Eq. 2)",
                attention="feature",
            ),
            *(Row(r.name, r.title, "rival", MappingProxyType({})) for r in RIVALS.values()),
        )
    }
)

HEADS = ("head-max", "head-single", "head-multi", OURS, "head-refined-feature")
TABLES: Mapping[TableName, tuple[str, ...]] = MappingProxyType(
    {
        "ii": (*RIVALS, OURS),
        "iii": (*RIVALS, FEATURES_ROW, OURS),
        "iv": (FEATURES_ROW, *HEADS),
        "v": ("slices-resnet", "slices-multitask", "slices-attention", FEATURES_ROW),
    }
)
TABLE_TITLES: Mapping[TableName, str] = MappingProxyType(
    {
        "ii": "Table II: patients, against the rivals",
        "iii": "Table III: cost of training",
        "iv": "Table IV: components of the patient network",
        "v": "Table V: components of the slice network, patients read by counting (T = 0.99)",
    }
)


def chosen_rows(tables: Iterable[TableName], keys: Iterable[str] = ()) -> tuple[Row, ...]:
    """Rows to train for some tables, each once and after what it needs.

    Parameters
    ----------
    tables : iterable of "ii", "iii", "iv", "v"
    keys : iterable of str
        Where any are given, only these rows (and what they need).

    Raises
    ------
    KeyError
        A key is no row.
    """
    wanted = {key for table in tables for key in TABLES[table]}
    only = {ROWS[key].key for key in keys}
    if only:
        wanted &= only
    if any(ROWS[key].kind == "head" for key in wanted):
        wanted.add(FEATURES_ROW)
    return tuple(row for row in ROWS.values() if row.key in wanted)
