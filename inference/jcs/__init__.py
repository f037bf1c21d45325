"""JCS (arXiv 2004.07054): classify slices and explain it, then outline lesions in the positives.

The architecture follows the published facts (the order's ``models.md`` §2); what they leave open
is marked **(decided)** where it stands, and listed in ADR 0020.
"""
