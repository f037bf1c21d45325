"""The model: a chest CT volume in Hounsfield units in, findings out.

Knows no network, no queue and no PACS. The one door is :mod:`inference.analyzer`;
the vocabulary it speaks is :mod:`inference.domain` (numpy only, no torch).
"""
