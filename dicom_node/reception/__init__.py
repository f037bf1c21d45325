"""What is done with an instance that comes in, whatever protocol it came by.

Read in the order of an instance::

    caller           who is on the other end of a connection
    water_marks      whether there is room for more
    sop_classes      what is kept, what is taken and thrown away
    kept             from its first byte to its durable receipt
    session          what came of one association or request
    group_commit     one commit for all who wait
    intake           what is needed of the ledger
    status           what is answered: status by exception

The listener knows how to read its protocol; nothing here does.
"""
