"""A node saved while it works, and put back elsewhere.

::

    FOLDER/manifest.json     when, by which version, of what; written last
    FOLDER/SHA256SUMS        one line per file, for `sha256sum --check` or `m3lung restore --check`
    FOLDER/ledger.sqlite3    one moment of the ledger, from whichever database
    FOLDER/node.toml         the configuration document, and config-history/
    FOLDER/audit/            the trail, its head and its key
    FOLDER/results/          what was made and may still have to be sent
    FOLDER/spool/instances/  images: those that unfinished work needs, all of them, or none

The ledger is copied first and the files after it, so the ledger never names what came later. Files
that retention removes meanwhile are told to the restored ledger as removed.
"""

from dicom_node.backup.manifest import Manifest
from dicom_node.backup.restoring import Restored, check, read_config, restore
from dicom_node.backup.saving import Images, Saved, save

__all__ = ["Images", "Manifest", "Restored", "Saved", "check", "read_config", "restore", "save"]
