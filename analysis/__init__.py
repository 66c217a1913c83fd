"""Label-free measurements: what attention heads repeat."""

from .divergence import BASES, Divergence, DivergenceMaps, check_attention, measure

__all__ = ["BASES", "Divergence", "DivergenceMaps", "check_attention", "measure"]
