"""Results on their way to a PACS: the C-STORE SCU, retry classes, breaker, connection test.

Read in the order of a shipment::

    shipping         which objects, in which order, what is recorded when
    presentation     presentation contexts: SOP class x transfer syntax
    upper_layer      one association (PS3.8)
    pdus             its protocol data units
    dimse            C-STORE and C-ECHO messages (PS3.7)
    encoding         a stored object in the transfer syntax that was accepted
    compression      pictures in JPEG, JPEG 2000, JPEG-LS, RLE
    retry            what an answer means: accepted, transient, permanent
    breaker          when a destination is left alone for a while
    connection_test  ``m3lung peers test``
"""
