"""The web console: worklist, series, system, and what administrators change.

A page is one module in :mod:`dicom_node.console.pages` and one template; see there. The console
reads the ledger and writes orders into it, as the command line does. It needs no torch, no build
step and no internet.
"""
