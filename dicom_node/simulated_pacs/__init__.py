"""A small local PACS: C-ECHO, C-STORE, C-FIND, C-GET, C-MOVE, storage commitment.

For ``m3lung demo`` where no Orthanc is installed, for administrators who try a configuration
(``m3lung simulate-pacs``), and for tests that need a peer which answers as ordered. It listens on
loopback unless told otherwise and keeps what it gets in one folder.
"""

from dicom_node.simulated_pacs.behaviour import Behaviour, CommitmentBehaviour, StoreRequest
from dicom_node.simulated_pacs.commitment import CommitmentRequest, SentReport
from dicom_node.simulated_pacs.holdings import Holdings
from dicom_node.simulated_pacs.misbehaviours import MISBEHAVIOURS, behaviour_from
from dicom_node.simulated_pacs.server import SimulatedPacs

__all__ = [
    "MISBEHAVIOURS",
    "Behaviour",
    "CommitmentBehaviour",
    "CommitmentRequest",
    "Holdings",
    "SentReport",
    "SimulatedPacs",
    "StoreRequest",
    "behaviour_from",
]
