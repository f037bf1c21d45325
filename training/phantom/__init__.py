"""Synthetic chest CT of people who do not exist: with the truth about every pixel.

Seeded: the same arguments give the same bytes. Read in the order in which a case is made::

    geometry           slices as planes of pixels; smooth fields in three dimensions
    person             sizes, age, breath
    lungs              the lungs' room: chest wall, mediastinum, diaphragm, fissures
    wall, organs       everything around it
    interior           the lungs on a coarse lattice, for what grows inside
    tree, tubes        space-filling trees, and what a slice shows of them
    bronchovascular    arteries, veins, bronchi
    incidental         emphysema, scars, nodules, dependent atelectasis: in healthy people too
    patches, focus     lesions as fields; where they begin
    lesions_…          COVID-19, H1N1, community-acquired pneumonia
    scanner, artefacts kernels, noise, field of view; heartbeat and breath
    case               one patient in one scanner
    series             slices as DICOM instances
    case_folder        a case on disk, with its truth
    cohort_spec, cohort   many cases
"""

from training.phantom.case import Case
from training.phantom.case_folder import write_case, write_simple_series
from training.phantom.cohort import write_cohort
from training.phantom.cohort_spec import CohortSpec, read_spec
from training.phantom.person import Family

__all__ = [
    "Case",
    "CohortSpec",
    "Family",
    "read_spec",
    "write_case",
    "write_cohort",
    "write_simple_series",
]
