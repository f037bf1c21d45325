"""The DICOM SCP: C-ECHO and C-STORE, hardened, with durable acknowledgement.

A thread per connection reads PDUs against absolute deadlines, streams each dataset once through
a digest into the spool, and answers success only after file, name and ledger row are on the disk.

The upper layer (PS3.8) of the acceptor is our own: pynetdicom's runs two polling threads per
association, believes the length of any PDU and has no timer inside a read. What pynetdicom does
well is used: encoding and decoding of the association PDUs and the negotiation of presentation
contexts. Its module-level configuration is not touched, its applications are never imported.
"""

from __future__ import annotations

from dicom_node.listener.service import run_listener

__all__ = ["run_listener"]
