"""Presentation contexts: which SOP classes and transfer syntaxes the node accepts.

Read by the listener and by whoever states the node's conformance (PS3.2).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

from pydicom import uid
from pynetdicom.presentation import (
    AllStoragePresentationContexts,
    PresentationContext,
    build_context,
)
from pynetdicom.sop_class import Verification

from dicom_node.reception.sop_classes import CT_STORAGE, DECODABLE_TRANSFER_SYNTAXES
from dicom_node.storage_commitment import PUSH_MODEL

__all__ = [
    "acceptable_contexts",
    "report_contexts",
]

# Objects that are accepted and thrown away are never decoded: videos may come, too.
_IGNORED_TRANSFER_SYNTAXES = DECODABLE_TRANSFER_SYNTAXES + tuple(
    syntax
    for syntax in uid.AllTransferSyntaxes
    if syntax not in DECODABLE_TRANSFER_SYNTAXES and not uid.UID(syntax).is_deflated
)


@lru_cache
def report_contexts() -> list[PresentationContext]:
    """Return what a peer needs that reports on storage commitment: it is the SCP (PS3.4 J.3.3)."""
    syntaxes = [uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian]
    context = build_context(PUSH_MODEL, syntaxes)
    context.scu_role, context.scp_role = False, True
    return [build_context(Verification, list(DECODABLE_TRANSFER_SYNTAXES[:3])), context]


@lru_cache
def acceptable_contexts(other_storage: Literal["ignore", "refuse"]) -> list[PresentationContext]:
    """Return what an acceptor of this node supports; a proposal picks from it (PS3.8 §9.3.2.2).

    Parameters
    ----------
    other_storage : {"ignore", "refuse"}
        Whether storage classes other than CT are accepted (to be thrown away), so that the
        automatic route of a whole study does not fail on its dose report.
    """
    contexts = [build_context(Verification, list(DECODABLE_TRANSFER_SYNTAXES[:3]))]
    contexts += [
        build_context(sop_class, list(DECODABLE_TRANSFER_SYNTAXES))
        for sop_class in sorted(CT_STORAGE)
    ]
    if other_storage == "ignore":
        contexts += [
            build_context(context.abstract_syntax, list(_IGNORED_TRANSFER_SYNTAXES))
            for context in AllStoragePresentationContexts
            if context.abstract_syntax not in CT_STORAGE
        ]
    return contexts
