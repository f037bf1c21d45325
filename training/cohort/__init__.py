"""Cohorts: patients with one chest CT series and a label each, and their decoded cache.

Read in the order in which a cohort flows::

    retrieval      from a PACS: C-FIND, C-GET or C-MOVE
    table          the CSV
    case_series    the one suitable series of a row
    slice_labels   given, or derived weakly
    checks         all problems at once
    split          by patient
    cache_build    decoded once, with the functions of serving
    cache          what training reads
"""

from training.cohort.cache import CachedPatient, CohortCache
from training.cohort.cache_build import build_cache
from training.cohort.checks import check_cohort
from training.cohort.split import Part, Split, read_split, split_patients, write_split
from training.cohort.table import Cohort, CohortRow, Problem, read_cohort, write_cohort

__all__ = [
    "CachedPatient",
    "Cohort",
    "CohortCache",
    "CohortRow",
    "Part",
    "Problem",
    "Split",
    "build_cache",
    "check_cohort",
    "read_cohort",
    "read_split",
    "split_patients",
    "write_cohort",
    "write_split",
]
