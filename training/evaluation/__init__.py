"""Evaluation: the product's own door over a cohort, then the paper's figures of merit and more.

``metrics``, ``bootstrap``, ``calibration`` and ``localisation`` are pure functions on arrays;
``reading`` takes a patient through the product; ``evaluate`` is the whole way.
"""
