"""The STOW-RS service: instances by HTTP POST, stored as the listener stores them (PS3.18 §10.5).

Read in the order of a request::

    service     ``m3lung stow``: settings in, an exit code out
    server      the port: TLS, limits on connections, deadlines before a request
    app         the routes, what is refused before a byte of the body is read
    access      who it is: token, certificate, address
    transfer    one body: from the network, in blocks with a deadline each, to the disk
    body        multipart/related, part by part
    parts       a part: a DICOM file, its File Meta Information first
    response    what is answered, part by part
"""

from __future__ import annotations

from dicom_node.stow.service import run_stow

__all__ = ["run_stow"]
