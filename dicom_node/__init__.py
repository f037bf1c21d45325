"""The node: DICOM in, DICOM out.

In the order in which a series flows: :mod:`listener` receives, :mod:`spool` and :mod:`ledger`
keep, :mod:`completion` says when a series is whole, :mod:`selection` whether it is analysed,
:mod:`reconciler` moves what waits, :mod:`broker` nudges, :mod:`worker` analyses,
:mod:`results` writes, :mod:`delivery` sends.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("m3lung-node")
except PackageNotFoundError:  # pragma: no cover - run from a bare checkout
    __version__ = "0+unknown"
