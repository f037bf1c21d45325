"""Results on their way to a PACS, by C-STORE or STOW-RS: retry classes, breaker, connection test.

Read in the order of a shipment::

    shipment         the nouns, and what is recorded when
    shipping         which objects, in which order, over one association
    presentation     presentation contexts: SOP class x transfer syntax
    upper_layer      one association (PS3.8)
    pdus             its protocol data units
    dimse            C-STORE and C-ECHO messages (PS3.7)
    encoding         a stored object in the transfer syntax that was accepted
    compression      pictures in JPEG, JPEG 2000, JPEG-LS, RLE
    retry            what an answer means: accepted, transient, permanent
    stow_shipping    the same by STOW-RS, a request for each object
    stow             one request (PS3.18)
    stow_answer      what an answer means
    web_client       HTTP
    qido             what a DICOMweb peer lists
    breaker          when a destination is left alone for a while
    connection_test  ``m3lung peers test``; web_steps: its part for STOW-RS
"""
