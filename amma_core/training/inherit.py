"""Starting from a trained model instead of from a pre-trained backbone alone."""

from collections.abc import Sequence

import torch

from amma_core.bundle import Bundle
from amma_core.errors import AmmaError
from amma_core.network import Amma

OF_CLASSES = ("branches.center.2.weight", "branches.center.2.bias")
"""The only weights that belong to the labels."""
OF_STACKED_CLIPS = ("branches.center.0.weight", "branches.trajectory.0.weight")
"""Have an input for each clip of the window."""
OF_KEY_FRAMES = ("branches.trajectory.2.weight", "branches.trajectory.2.bias")
"""Have an output for each clip of the window."""

OF_MOTION = ("micro_motion.", "backbone.appearance_share")
"""Beginnings of the names of weights that nothing stands for where there is no motion."""


def inherit(network: Amma, bundle: Bundle, labels: Sequence[str]) -> None:
    """Fill `network`, for actions `labels`, in place with what it can take over of a trained model.

    With other labels the class outputs keep their random start. A model of one clip may start a network of
    K clips: it then answers as the one-clip model does for the mean of the K clips' features, as image
    networks are inflated in time (Carreira and Zisserman 2017), but training such a model first sees K times
    as many different clips in the same time. A model without motion may start a network with it: the motion
    stages begin as the appearance's, the shares and the micro-motion filters stay `network`'s own. Raises
    AmmaError where backbone, motion or clips don't fit.
    """
    ours, theirs = network.config, bundle.network
    grows_motion = theirs.motion == "none" and ours.motion != "none"
    for name in ("backbone",) if grows_motion else ("backbone", "motion", "fusion_stages"):
        if getattr(ours, name) != getattr(theirs, name):
            raise AmmaError(
                f"initial_model: {bundle.path} has {name} {getattr(theirs, name)!r}, "
                f"but the recipe asks for {getattr(ours, name)!r}"
            )
    if theirs.clips not in (1, ours.clips):
        raise AmmaError(
            f"initial_model: {bundle.path} sees {theirs.clips} clips at once, the recipe's network "
            f"{ours.clips}: take a model of as many clips, or of 1"
        )
    weights = bundle.build().state_dict()
    if theirs.clips != ours.clips:
        for name in OF_STACKED_CLIPS:
            weights[name] = torch.cat([weights[name]] * ours.clips, dim=1) / ours.clips
        for name in OF_KEY_FRAMES:
            weights[name] = torch.cat([weights[name]] * ours.clips)
    start = network.state_dict()
    if grows_motion:
        for name in start:
            if name.startswith("backbone.motion."):
                weights[name] = weights[name.replace("motion", "appearance", 1)]
            elif name.startswith(OF_MOTION):
                weights[name] = start[name]
    if tuple(labels) != bundle.labels:
        weights |= {name: start[name] for name in OF_CLASSES}
    network.load_state_dict(weights)
