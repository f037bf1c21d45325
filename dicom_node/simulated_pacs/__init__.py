"""A small local PACS: C-ECHO, C-STORE, C-FIND, C-GET, C-MOVE.

For ``m3lung demo`` where no Orthanc is installed, and for tests that need a peer which answers
as ordered. It listens on loopback unless told otherwise and keeps what it gets in one folder.
"""

from dicom_node.simulated_pacs.holdings import Holdings
from dicom_node.simulated_pacs.server import Behaviour, SimulatedPacs, StoreRequest

__all__ = ["Behaviour", "Holdings", "SimulatedPacs", "StoreRequest"]
