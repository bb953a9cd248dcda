"""Where the network runs: one protocol, so that a detector need not know which engine is under it."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from amma_core.config import NetworkConfig

NumpyMaps = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]
"""Heat (B, C, G, G), movement (B, 2K, G, G) and size (B, 2K, G, G): see :class:`amma_core.network.Maps`."""


class Runtime(Protocol):
    """A loaded network. Features stay where it runs, opaque to the caller."""

    config: NetworkConfig
    clips_encoded: int
    """Encoder work so far: one per clip, whatever the batch."""

    def encode(self, clips: NDArray[np.uint8]) -> list[Any]:
        """(B, t, S, S, 3) BGR clips -> one feature per clip."""

    def head(self, windows: Sequence[Sequence[Any]], top: int | None) -> NumpyMaps:
        """B windows of K features each, oldest first -> maps.

        Movement may be left out, as 0, where heat has none of its `top` highest peaks; nowhere with None.
        """
