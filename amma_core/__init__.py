"""Online spatiotemporal action detection (AMMA), free of any robot framework.

A stream of BGR frames goes in; tubelets, action tubes and per-frame detections come out:
:mod:`~amma_core.detector` makes tubelets, :mod:`~amma_core.linker` makes tubes, and
:mod:`~amma_core.pipeline` is the two of them in a row.

The method is that of Liu, Yang and Ginhac, "Accumulated micro-motion representations for
lightweight online action detection in real-time", JVCIR 2023, called "the paper" in this package.
"""

__version__ = "0.1.0"
