"""What is done with an instance that comes in, whatever protocol it came by.

Read in the order of an instance::

    admission        how many may connect
    caller           who is on the other end of a connection
    water_marks      whether there is room for more
    sop_classes      what is kept, what is taken and thrown away
    kept             from its first byte to its durable receipt
    session          what came of one association or request
    flusher          the file on the disk
    group_commit     one commit for all who wait
    intake           what is needed of the ledger
    status           what is answered: status by exception

The protocols are read elsewhere: DIMSE in :mod:`dicom_node.listener`, HTTP in
:mod:`dicom_node.stow`.
"""
