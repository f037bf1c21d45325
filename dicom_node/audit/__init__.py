"""The audit trail: who sent, fetched, asked, changed and was refused (PS3.15 A.5).

One JSON line for each event, its fields named as in the audit message of the standard, each
carrying the SHA-256 of the line before. Where the chain ends is kept apart, so that an edit, a
deletion and a cut at the end all show. Everything a trail says about patients is a pseudonym,
unless the settings ask for the standard's own identifiers; a name is in neither.
"""

from __future__ import annotations

from dicom_node.audit.auditor import Auditor, Transfer
from dicom_node.audit.newest_first import Filter, Leaf, leaf
from dicom_node.audit.trail import AuditTrail
from dicom_node.audit.verification import Verdict, records, verify

__all__ = [
    "AuditTrail",
    "Auditor",
    "Filter",
    "Leaf",
    "Transfer",
    "Verdict",
    "leaf",
    "records",
    "verify",
]
