"""A synthetic chest CT: drawn from simple shapes, the same bytes for the same seed.

Nobody's body and nobody's disease: it shows that a node works, and it feeds tests. Read in the
order in which a series is made::

    shapes     ellipses and smooth random fields on a slice
    chest      body, bones, lungs, heart and table of one slice, in HU
    vessels    branching vessels of both lungs
    lesions    ground-glass patches
    series     the slices as a DICOM series
"""

from training.phantom.chest import Chest
from training.phantom.series import PhantomSeries, write_simple_series

__all__ = ["Chest", "PhantomSeries", "write_simple_series"]
