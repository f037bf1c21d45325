"""What ``m3lung demo`` does: a node and a PACS side by side, a series through both, and back.

Everything goes over the wire, as in a hospital; nothing is read from the node's folders that a
PACS would not have been sent. In the order of the demo::

    child        a program that ends with us
    local_pacs   Orthanc, or the project's own simulated PACS
    local_node   ``m3lung serve`` with a configuration of its own
    sending      the series to both, by C-STORE
    following    the ledger, until every delivery has ended
    retrieval    the results back from the PACS, by C-FIND and C-GET
    comparison   what came back against what was sent
    pictures     the results as PNG
"""
