"""Angle concentration of packed hidden states, in linear time; imports torch, and triton only when used."""

from gaincurate_kernels.angle import (
    Backend,
    angle_concentration,
    resolve_backend,
    segment_unit_sums,
    triton_version,
)
from gaincurate_kernels.reference import Concentration, RMSNorm, UnitSums

__all__ = [
    "Backend",
    "Concentration",
    "RMSNorm",
    "UnitSums",
    "angle_concentration",
    "resolve_backend",
    "segment_unit_sums",
    "triton_version",
]
