"""The children that decode pixel data, with the limits of the settings."""

from __future__ import annotations

from dicom_node.settings import NodeSettings
from inference.decoder_pool import DecoderLimits, DecoderPool

__all__ = ["start_decoders"]


def start_decoders(settings: NodeSettings) -> DecoderPool:
    """Start them; they come up while the caller does something else (loads the model)."""
    analysis = settings.analysis
    limits = DecoderLimits(
        memory_bytes=analysis.decoder_memory_bytes, time_limit_s=analysis.decoder_time_limit_s
    )
    return DecoderPool(analysis.decoders or analysis.threads, limits)
