"""Several networks that answer as one."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from amma_core.network.amma import Amma
from amma_core.network.heads import Cells, Head


class Committee(nn.Module):
    """Networks that were trained apart look at every clip: all say what is where, the first gives the boxes.

    What one confuses another may know, the more so the more differently they began, while a box that fits is
    not made better by one that does not. Each member's heat counts by its share; the shares add up to 1. The
    members have as many clips, classes and pixels as each other. A stream runs them as it runs an
    :class:`Amma`.
    """

    def __init__(self, members: Sequence[Amma], shares: Sequence[float]):
        super().__init__()
        self.config = members[0].config
        self.members = nn.ModuleList(members)
        self.branches = CommitteeBranches([member.branches for member in members], shares)

    def encode(self, clips: Tensor) -> Tensor:
        """(B, t, 3, S, S) clips -> (B, M, 64, S/16, S/16), by each of the M members."""
        return torch.stack([member.encode(clips) for member in self.members], dim=1)

    def size(self, features: Tensor) -> Tensor:
        """(B, M, 64, S/16, S/16) encoded clips -> (B, 2, G, G); see :meth:`Amma.size`."""
        return self.members[0].size(features[:, 0])

    def stack(self, features: Tensor) -> Tensor:
        """(B, K, M, 64, S/16, S/16) encoded clips -> (B, M, K * 64, G, G); see :meth:`Amma.stack`."""
        parts = zip(self.members, features.unbind(2), strict=True)
        return torch.stack([member.stack(part) for member, part in parts], dim=1)


class CommitteeBranches(nn.Module):
    """What the members' branches say of (B, M, K * 64, G, G) stacked features.

    As in :class:`~amma_core.network.heads.Head`.
    """

    def __init__(self, members: Sequence[Head], shares: Sequence[float]):
        super().__init__()
        self.members = nn.ModuleList(members)
        self.shares = tuple(shares)

    def heat(self, stacked: Tensor) -> Tensor:
        parts = zip(self.members, self.shares, stacked.unbind(1), strict=True)
        return sum(share * member.heat(part) for member, share, part in parts)

    def movement(self, stacked: Tensor) -> Tensor:
        return self.members[0].movement(stacked[:, 0])

    def movement_at(self, stacked: Tensor, at: Cells) -> Tensor:
        return self.members[0].movement_at(stacked[:, 0], at)
