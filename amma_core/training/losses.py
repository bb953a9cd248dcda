"""What training minimises (section 3.3, equations 4 to 7)."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from amma_core.network import Maps
from amma_core.training.targets import Targets


class Losses(NamedTuple):
    center: Tensor
    movement: Tensor
    size: Tensor
    overlap: Tensor
    """Ours: how far the boxes that decoding would give are from the right ones."""
    label: Tensor
    """Ours: how well the classes are told apart at the centres."""

    def total(
        self,
        box_weight: float = 0.1,
        overlap_weight: float = 0.0,
        label_weight: float = 0.0,
    ) -> Tensor:
        """The weighted sum; the paper's by default."""
        ours = overlap_weight * self.overlap + label_weight * self.label
        return self.center + self.movement + box_weight * self.size + ours


def losses(maps: Maps, targets: Targets, label_smoothing: float = 0.0) -> Losses:
    """The losses of `maps` for targets that are tensors.

    Movement is read at the newest key frame's cell, sizes at each key frame's own. Without any action
    in the batch both are 0.
    """
    heat, window, labels, cells, movement, size = targets
    clips = cells.shape[1]
    columns, rows = cells[..., 0], cells[..., 1]
    moved = maps.movement[window, :, rows[:, -1], columns[:, -1]].unflatten(1, (clips, 2))
    sizes = maps.size.unflatten(1, (clips, 2))
    sized = sizes[window[:, None], torch.arange(clips, device=cells.device), :, rows, columns]
    scores = maps.heat[window, :, rows[:, -1], columns[:, -1]]
    return Losses(
        focal(maps.heat, heat),
        mean_distance(moved, movement),
        mean_distance(sized, size),
        misfit(maps, targets),
        confusion(scores, labels, label_smoothing),
    )


def focal(probability: Tensor, target: Tensor) -> Tensor:
    """CenterNet's focal loss, per positive (a target of exactly 1), or in all if there is none."""
    p = probability.clamp(1e-4, 1 - 1e-4)
    positive = target.eq(1)
    loss = torch.where(
        positive, (1 - p).square() * p.log(), (1 - target).pow(4) * p.square() * torch.log1p(-p)
    )
    return -loss.sum() / positive.sum().clamp_min(1)


def confusion(probabilities: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy at the centres of (P, C) probabilities of the center branch against (P,) labels.

    The focal loss hardly pushes down a wrong class that is held for somewhat likely (at 0.2 its gradient is a
    fortieth of the right one's), so it is slow to tell classes apart: here they compete.
    """
    if not len(labels):
        return probabilities.sum()
    logits = probabilities.clamp(1e-4, 1 - 1e-4).logit()
    return F.cross_entropy(logits, labels, label_smoothing=smoothing)


def misfit(maps: Maps, targets: Targets) -> Tensor:
    """1 - generalised IoU of the decoded boxes and the right ones, mean over actions, key frames and cells.

    Decoded as if the heat peaked at any of 5 x 5 places in the middle half of the newest box, as it often
    does: the other losses say nothing about what the two branches answer there. (TTFNet, Liu et al. 2020,
    learns boxes around the centres too, for the sake of shorter training.) 0 without any action.
    """
    _, window, _, cells, movement, size = targets
    clips, grid = cells.shape[1], maps.size.shape[-1]
    steps = torch.linspace(-0.25, 0.25, 5, device=cells.device)
    around = (torch.cartesian_prod(steps, steps) * size[:, -1:]).round().long()  # (P, N, 2)
    peaks = (cells[:, -1, None] + around).clamp(0, grid - 1)  # (P, N, 2)
    places = (cells[:, None] + around[:, :, None]).clamp(0, grid - 1)  # (P, N, K, 2)
    moved = maps.movement[window[:, None], :, peaks[..., 1], peaks[..., 0]].unflatten(-1, (clips, 2))
    sizes = maps.size.unflatten(1, (clips, 2))
    clip = torch.arange(clips, device=cells.device)
    sized = sizes[window[:, None, None], clip, :, places[..., 1], places[..., 0]]  # (P, N, K, 2)
    found = peaks[:, :, None] + moved.float(), sized.float().clamp_min(0)
    right = (cells[:, -1:] + movement)[:, None], size[:, None]
    gap = 1 - generalised_iou(*found, *right)
    return gap.sum() / max(1, gap.numel())


def generalised_iou(centre: Tensor, size: Tensor, other_centre: Tensor, other_size: Tensor) -> Tensor:
    """IoU less the share of the hull of two boxes that neither fills (Rezatofighi et al. 2019), -1 to 1.

    All (..., 2); returns (...). Unlike the IoU it still says which way to go where boxes do not overlap.
    """
    low, other_low = centre - size / 2, other_centre - other_size / 2
    high, other_high = centre + size / 2, other_centre + other_size / 2
    shared = (torch.minimum(high, other_high) - torch.maximum(low, other_low)).clamp_min(0).prod(dim=-1)
    hull = (torch.maximum(high, other_high) - torch.minimum(low, other_low)).prod(dim=-1).clamp_min(1e-6)
    union = size.prod(dim=-1) + other_size.prod(dim=-1) - shared
    return shared / union.clamp_min(1e-6) - (hull - union) / hull


def mean_distance(answer: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference; 0, but still part of the graph, where there is nothing to compare."""
    return F.l1_loss(answer, target, reduction="sum") / max(1, target.numel())
