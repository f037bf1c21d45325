"""Findings to DICOM: structured report, overlays, summary page, segmentation, key objects.

The door is :func:`~dicom_node.results.writer.write_results`;
:mod:`~dicom_node.results.result_json` holds the same reading as a document.
"""
