"""The node: DICOM in, DICOM out.

In the order in which a series flows: :mod:`listener` receives, :mod:`spool` and :mod:`ledger`
keep, :mod:`completion` says when a series is whole, :mod:`selection` whether it is analysed,
:mod:`reconciler` moves what waits, :mod:`broker` nudges, :mod:`worker` analyses,
:mod:`results` writes, :mod:`delivery` sends.
"""

from __future__ import annotations

__version__: str


def __getattr__(name: str) -> str:
    """Look the version up when it is asked for: that takes longer than a question to the node."""
    if name != "__version__":
        raise AttributeError(name)
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("m3lung-node")
    except PackageNotFoundError:  # pragma: no cover - run from a bare checkout
        return "0+unknown"
