"""TLS between application entities: mutual, and a certificate bound to its AE title.

TLS 1.2 and 1.3 with forward secrecy and authenticated encryption only, as RFC 9325 (BCP 195)
has it and PS3.15 Annex B profiles it for DICOM. Both sides show a certificate; that a CA signed
it says who made it, not whom it belongs to, so each peer's entry names its certificate by
fingerprint or by name, and a peer that shows another one is not served.
"""

from __future__ import annotations

from dicom_node.tls.binding import PeerCertificate, mismatch
from dicom_node.tls.contexts import (
    ServerContexts,
    client_context,
    server_context,
    web_client_context,
)
from dicom_node.tls.failure import tls_failure

__all__ = [
    "PeerCertificate",
    "ServerContexts",
    "client_context",
    "mismatch",
    "server_context",
    "tls_failure",
    "web_client_context",
]
