"""UIDs that the same reading gets every time, on every machine.

``2.25.<uuid5>`` (PS3.5 §B.2) over what decides the content: the source series, the set of
instances, the model, the configuration, the kind of object, its SOP class and the source image.
Never time or host.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from dicom_node.domain import ObjectKind

__all__ = ["ResultIdentity", "device_uid", "uid_of"]

_NAMESPACE = uuid.UUID("6d336c75-6e67-5f6e-8f64-655f75696473")  # fixed for ever


def uid_of(*parts: str) -> str:
    """Return ``2.25.<uuid5>`` of `parts`, at most 44 characters.

    Parts are joined by a line feed, which no UID, digest or kind contains.
    """
    return f"2.25.{uuid.uuid5(_NAMESPACE, chr(10).join(parts)).int}"


def device_uid(model_sha256: str) -> str:
    """Return the Device UID (0018,1002) of a model: another one whenever the weights differ."""
    return uid_of("device", model_sha256)


@dataclass(frozen=True, slots=True)
class ResultIdentity:
    """What decides every UID of one reading.

    Attributes
    ----------
    series_instance_uid : str
        The source series.
    instance_set_digest : str
        Over the SOP Instance UIDs and contents that were read.
    model_sha256, configuration_digest : str
    """

    series_instance_uid: str
    instance_set_digest: str
    model_sha256: str
    configuration_digest: str

    def series_uid(self, kind: ObjectKind) -> str:
        """Series Instance UID of the objects of `kind`."""
        return uid_of("series", *self._key(), kind)

    def instance_uid(self, kind: ObjectKind, sop_class_uid: str, of: str = "") -> str:
        """SOP Instance UID of one object.

        Parameters
        ----------
        of : str
            Source image of the object ("<SOP Instance UID>/<frame>"), empty for objects of the
            whole series.
        """
        return uid_of("instance", *self._key(), kind, sop_class_uid, of)

    def internal_uid(self, purpose: str) -> str:
        """Any other UID inside the objects: dimension organisation, missing frame of reference."""
        return uid_of("internal", *self._key(), purpose)

    def tracking_uid(self, finding: str) -> str:
        """Tracking UID of a finding: the same for re-sends, revisions and other model versions."""
        return uid_of("tracking", self.series_instance_uid, finding)

    def _key(self) -> tuple[str, str, str, str]:
        return (
            self.series_instance_uid,
            self.instance_set_digest,
            self.model_sha256,
            self.configuration_digest,
        )
