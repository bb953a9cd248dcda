"""The AMMA network in torch."""

from amma_core.network.amma import Amma
from amma_core.network.committee import Committee
from amma_core.network.cost import gmacs_per_clip, multiply_adds, parameter_count
from amma_core.network.heads import Maps
from amma_core.network.mirrored import MirroredAmma

__all__ = ["Amma", "Committee", "Maps", "MirroredAmma", "gmacs_per_clip", "multiply_adds", "parameter_count"]
