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
    label: Tensor
    """Ours: how well the classes are told apart at the centres."""
    hint: Tensor
    """Ours: how well a teacher's features can be read off at the centres; 0 without a teacher."""

    def total(self, box_weight: float = 0.1, label_weight: float = 0.0, hint_weight: float = 0.0) -> Tensor:
        """The weighted sum; the paper's by default."""
        ours = label_weight * self.label + hint_weight * self.hint
        return self.center + self.movement + box_weight * self.size + ours


def losses(maps: Maps, targets: Targets, label_smoothing: float = 0.0) -> Losses:
    """The losses of `maps` for targets that are tensors; the hint's is left at 0, see :func:`disagreement`.

    Movement is read at the newest key frame's cell, sizes at each key frame's own. Without any action
    in the batch both are 0.
    """
    heat, window, labels, cells, movement, size, _ = targets
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
        confusion(scores, labels, label_smoothing),
        heat.new_zeros(()),
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


def disagreement(read: Tensor, hints: Tensor) -> Tensor:
    """Mean squared difference of (P, D) features read off the network and the teacher's; 0 if there are none.

    The hint of FitNets (Romero et al. 2015): a class is one number, the teacher's features say why.
    """
    return F.mse_loss(read.float(), hints, reduction="sum") / max(1, hints.numel())


def mean_distance(answer: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference; 0, but still part of the graph, where there is nothing to compare."""
    return F.l1_loss(answer, target, reduction="sum") / max(1, target.numel())
