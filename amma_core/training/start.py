"""The network that training begins with."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from amma_core import bundle
from amma_core.errors import AmmaError
from amma_core.network import Amma
from amma_core.training.inherit import inherit
from amma_core.training.initial_weights import WITHOUT_STATISTICS, load_initial_weights, settle_norms
from amma_core.training.recipe import Recipe


def first_network(
    recipe: Recipe,
    labels: Sequence[str],
    examples: Callable[[int, int], NDArray[np.uint8]],
    weights_cache: Path,
) -> Amma:
    """The network of `recipe` for actions `labels`, with what it takes over of a model or of image weights.

    `examples(t, S)` gives some of the clips to be trained on, (N, t, 3, S, S) BGR, for the norms that need
    statistics. Raises AmmaError for weights or a model that can't be had or don't fit.
    """
    network = Amma(recipe.network_config(len(labels)))
    if recipe.appearance_share is not None:
        set_shares(network, recipe.appearance_share)
    size = recipe.phases[0].input_size
    if recipe.initial_model is not None:
        parent = bundle.load(recipe.initial_model)
        if unsettled := inherit(network, parent, labels, recipe.new_motion):
            clips = torch.from_numpy(examples(network.config.clip_length, size))
            for settle in unsettled:
                settle(network, clips)
    elif recipe.initial_weights is not None:
        load_initial_weights(network, recipe.initial_weights, weights_cache)
        if recipe.initial_weights in WITHOUT_STATISTICS:
            settle_norms(network, torch.from_numpy(examples(1, size)[:, 0]))
    return network


def set_shares(network: Amma, shares: Sequence[float]) -> None:
    """Give each fusion its share of the appearance; AmmaError if there are more or fewer fusions."""
    ours = network.backbone.appearance_share.data
    if len(shares) != len(ours):
        raise AmmaError(f"appearance_share has {len(shares)} values, but the network has {len(ours)} fusions")
    ours.copy_(torch.tensor(shares))
