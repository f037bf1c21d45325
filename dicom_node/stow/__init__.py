"""STOW-RS: instances by HTTP POST, stored as the listener stores them (PS3.18 §10.5).

Read in the order of a request::

    handler     one connection: its requests, one after the other
    http        a socket as requests and answers, with a deadline for each piece
    access      who it is: token, certificate, address
    request     what is asked, and what is refused before a byte of the body is read
    body        multipart/related, part by part
    part        a DICOM file, its File Meta Information first
    response    what is answered, part by part

The port, its threads, its TLS and its limits are the listener's.
"""

from __future__ import annotations

from dicom_node.stow.handler import RequestHandler

__all__ = ["RequestHandler"]
