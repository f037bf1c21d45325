"""M²UNet (arXiv 2005.03832): lung lobes, and severity by hierarchical multi-instance learning.

Only the abstract is public, so every choice here is **(decided)**: the order's ``models.md`` §3,
and ADR 0020 for what that leaves open.
"""
