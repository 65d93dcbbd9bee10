"""Angle concentration of packed hidden states, in linear time; imports torch and nothing of gaincurate."""

from gaincurate_kernels.reference import (
    Concentration,
    UnitSums,
    angle_concentration,
    segment_unit_sums,
)

__all__ = ["Concentration", "UnitSums", "angle_concentration", "segment_unit_sums"]
