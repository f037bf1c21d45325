"""What the node reads of an instance's header: enough to order, complete and select a series.

Read once, in the listener, without touching pixels, and kept in the ledger.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

__all__ = ["InstanceHeader"]


class InstanceHeader(BaseModel):
    """The attributes of one instance that decide its way through the node.

    Numbers that cannot be read are None; text is decoded with the instance's character set,
    stripped, and cut at 256 characters.

    Attributes
    ----------
    image_position : tuple of 3 float or None
        ImagePositionPatient, LPS, mm (PS3.3 C.7.6.2).
    image_orientation : tuple of 6 float or None
        ImageOrientationPatient: row cosines, then column cosines.
    pixel_spacing : tuple of 2 float or None
        mm, (between rows, between columns).
    patient_age : str
        As it stands there, such as ``045Y``.
    has_pixel_data : bool
    """

    model_config = ConfigDict(frozen=True)

    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    study_instance_uid: str
    series_instance_uid: str
    frame_of_reference_uid: str = ""
    patient_id: str = ""
    issuer_of_patient_id: str = ""
    patient_name: str = ""
    accession_number: str = ""
    study_date: str = ""
    study_description: str = ""
    requested_procedure: str = ""
    patient_age: str = ""
    modality: str = ""
    image_type: tuple[str, ...] = ()
    manufacturer: str = ""
    model_name: str = ""
    series_number: int | None = None
    series_description: str = ""
    protocol_name: str = ""
    body_part_examined: str = ""
    convolution_kernel: str = ""
    acquisition_number: int | None = None
    instance_number: int | None = None
    number_of_frames: int | None = None
    rows: int | None = None
    columns: int | None = None
    slice_thickness_mm: float | None = None
    image_position: tuple[float, float, float] | None = None
    image_orientation: tuple[float, float, float, float, float, float] | None = None
    pixel_spacing: tuple[float, float] | None = None
    has_pixel_data: bool = False
    from_this_node: bool = False  # ManufacturerModelName is this software's
