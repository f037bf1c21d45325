"""``python -m dicom_node`` is ``m3lung``."""

from dicom_node.cli import main

main()
