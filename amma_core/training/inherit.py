"""Starting from a trained model instead of from a pre-trained backbone alone."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from amma_core.bundle import Bundle
from amma_core.errors import AmmaError
from amma_core.network import Amma

OF_CLASSES = ("branches.center.2.weight", "branches.center.2.bias")
"""The only weights that belong to the labels."""
OF_STACKED_CLIPS = ("branches.center.0.weight", "branches.trajectory.0.weight")
"""Have an input for each clip of the window."""
OF_KEY_FRAMES = ("branches.trajectory.2.weight", "branches.trajectory.2.bias")
"""Have an output for each clip of the window."""

SHARES = "backbone.appearance_share"
STILL = "backbone.still"

Settle = Callable[[Amma, Tensor], None]
"""Fits a network, in place, to what it finds in clips, (N, t, 3, S, S) uint8 BGR."""


def inherit(network: Amma, bundle: Bundle, labels: Sequence[str], new_motion: bool = False) -> list[Settle]:
    """Fill `network`, for actions `labels`, in place with what it can take over of a trained model.

    With other labels the class outputs keep their random start. A model of fewer clips may start a network of
    K clips, see :func:`add_clips`. A model without motion may start a network with it, and so may
    one whose motion is to begin anew (`new_motion`): the motion stages begin as the appearance's, the
    micro-motion filters stay `network`'s own, and so do the shares where the model has none, or not as many.
    Late fusion may begin on a model without it.

    Returns what is left to do, in this order, where the motion stream or late fusion begins. Raises AmmaError
    where backbone, motion or clips don't fit.
    """
    ours, theirs = network.config, bundle.network
    begins_motion = ours.motion != "none" and (theirs.motion == "none" or new_motion)
    for name in ("backbone",) if begins_motion else ("backbone", "motion", "fusion_stages"):
        if getattr(ours, name) != getattr(theirs, name):
            raise AmmaError(
                f"initial_model: {bundle.path} has {name} {getattr(theirs, name)!r}, "
                f"but the recipe asks for {getattr(ours, name)!r}"
            )
    if theirs.clips > ours.clips:
        raise AmmaError(
            f"initial_model: {bundle.path} sees {theirs.clips} clips at once, the recipe's network "
            f"{ours.clips}: take a model of as many clips, or of fewer"
        )
    weights = bundle.build_one().state_dict()
    add_clips(weights, theirs.clips, ours.clips)
    start = network.state_dict()
    if begins_motion:
        for name in start:
            if name.startswith("backbone.motion."):
                weights[name] = weights[name.replace("motion", "appearance", 1)]
            elif name.startswith("micro_motion."):
                weights[name] = start[name]
        if weights[SHARES].shape != start[SHARES].shape:
            weights[SHARES] = start[SHARES]
    if STILL in start and (begins_motion or STILL not in weights):
        weights[STILL] = start[STILL]
    if tuple(labels) != bundle.labels:
        weights |= {name: start[name] for name in OF_CLASSES}
    network.load_state_dict({name: weights[name] for name in start})  # the parent's motion may have more
    begins_late_fusion = ours.late_fusion > 0 and (begins_motion or theirs.late_fusion == 0)
    return [settle_motion] * begins_motion + [settle_late_fusion] * begins_late_fusion


def add_clips(weights: dict[str, Tensor], few: int, many: int) -> None:
    """Have weights of a network of `few` clips, in place, be those of one of `many`.

    From one clip it answers as the one-clip network does for the mean of the clips' features, as image
    networks are inflated in time (Carreira and Zisserman 2017), but training such a network first sees many
    times as many different clips in the same time. From several, the center branch sees the longer window as
    it saw the shorter one played that much more slowly. The trajectory branch does not see the older clips
    yet, and answers for them as if all went on in a straight line.
    """
    if few == many:
        return
    center, trajectory = OF_STACKED_CLIPS
    weights[center] = _stretched(weights[center], few, many)
    if few == 1:
        weights[trajectory] = _stretched(weights[trajectory], few, many)
    else:
        seen = weights[trajectory]
        unseen = seen.new_zeros(len(seen), seen.shape[1] // few * (many - few), *seen.shape[2:])
        weights[trajectory] = torch.cat([unseen, seen], dim=1)
    for name in OF_KEY_FRAMES:
        moved = weights[name].unflatten(0, (few, 2))
        step = moved[0] - moved[min(1, few - 1)]
        older = [moved[0] + steps * step for steps in range(many - few, 0, -1)]
        weights[name] = torch.cat([torch.stack(older), moved]).flatten(0, 1)


def _stretched(weight: Tensor, few: int, many: int) -> Tensor:
    """(H, few * C, 3, 3) -> (H, many * C, 3, 3): a filter over time that lasts longer, with the same sum."""
    start, old = torch.arange(many)[:, None] * few / many, torch.arange(few)
    # How much of each old clip's time every new one takes.
    share = (torch.minimum(start + few / many, old + 1) - torch.maximum(start, old)).clamp(min=0)
    return torch.einsum("mf,hfcyx->hmcyx", share, weight.unflatten(1, (few, -1))).flatten(1, 2)


@torch.no_grad()
def settle_motion(network: Amma, clips: Tensor) -> None:
    """Give the motion stream's batch norms the statistics that they find in `clips`.

    Stages that have seen images so far find other values in micro-motion: with the images' statistics they
    would pass hardly anything on, and norms that are frozen would never learn better.

    clips: (N, t, 3, S, S) uint8 BGR.
    """
    stages = network.backbone.motion
    norms = [module for module in stages.modules() if isinstance(module, nn.BatchNorm2d)]
    usual = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over what follows, and nothing from before
    stages.train()
    x = network.micro_motion(clips)
    for stage in stages:
        x = stage(x)
    for norm, momentum in zip(norms, usual, strict=True):
        norm.momentum = momentum


@torch.no_grad()
def settle_late_fusion(network: Amma, clips: Tensor) -> None:
    """Have late fusion show the deep stages what they saw where training hid the newest frame.

    `still` becomes the mean of what is left of the appearance there (`hidden_appearance` in a recipe).

    clips: (N, t, 3, S, S) uint8 BGR.
    """
    backbone = network.backbone.eval()
    newest, motion = network.inputs(clips)
    fused, share_of_motion = backbone.fuse(torch.zeros_like(newest), motion)
    backbone.still.copy_((fused - share_of_motion).mean(dim=(0, 2, 3)).view(-1, 1, 1))
