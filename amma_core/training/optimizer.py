"""How weights change: which of them, how fast, and their average."""

import math

import torch
from torch import nn

from amma_core.errors import AmmaError
from amma_core.network import Amma
from amma_core.training.recipe import Optimisation


def freeze(network: Amma, stages: int, only: str = "") -> None:
    """Let the first `stages` backbone stages of both streams, and what feeds them, keep their weights.

    With `only`, all weights do so whose names begin otherwise. Raises AmmaError if that leaves none.
    """
    network.requires_grad_(True)
    backbone = network.backbone
    for stage in (*backbone.appearance[:stages], *backbone.motion[:stages]):
        stage.requires_grad_(False)
    if stages and network.micro_motion is not None:
        network.micro_motion.requires_grad_(False)
    if stages or not backbone.motion:  # without motion there are none, which DDP takes for unused ones
        backbone.appearance_share.requires_grad_(False)
    for layer in new_layers(network):
        layer.requires_grad_(True)
    for name, value in network.named_parameters():
        value.requires_grad_(value.requires_grad and name.startswith(only))
    if not any(value.requires_grad for value in network.parameters()):
        raise AmmaError(f"a phase's only is {only!r}, but no weight that learns has such a name")


def to_training(network: Amma, frozen_norms: bool) -> None:
    """Put `network` in training mode, but for batch norms that keep their statistics."""
    network.train()
    if frozen_norms:
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()


def new_layers(network: Amma) -> list[nn.Module]:
    """Layers of the backbone without a pre-trained start: the mobile ones' last convolution and norm."""
    last = network.backbone.appearance[-1]
    return list(last[-2:]) if isinstance(last[-1], nn.BatchNorm2d) else []


def make_optimizer(network: Amma, settings: Optimisation) -> torch.optim.Optimizer:
    """Adam or AdamW; vectors (biases, batch norms, shares) are not decayed."""
    kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    if settings.name not in kinds:
        raise AmmaError(f"optimisation.name is {settings.name!r}, but must be one of {', '.join(kinds)}")
    slower = (settings.backbone_rate or settings.rate) / settings.rate
    new = {id(value) for layer in new_layers(network) for value in layer.parameters()}
    groups = []
    for of_backbone in (True, False):
        for decayed in (True, False):
            parameters = [
                value
                for name, value in network.named_parameters()
                if (name.startswith("backbone.") and id(value) not in new) == of_backbone
                and (value.ndim > 1) == decayed
            ]
            decay = settings.weight_decay if decayed else 0.0
            groups.append(
                {"params": parameters, "weight_decay": decay, "factor": slower if of_backbone else 1.0}
            )
    return kinds[settings.name](groups, lr=settings.rate)


def rate_factor(settings: Optimisation, done: float, epoch: int) -> float:
    """The learning rate's factor when the share `done` of all steps lies behind, in `epoch` (from 0)."""
    if done < settings.warmup:
        return done / settings.warmup
    if settings.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * (done - settings.warmup) / (1 - settings.warmup)))
    if settings.schedule == "steps":
        return settings.factor ** sum(epoch >= milestone for milestone in settings.milestones)
    raise AmmaError(f"optimisation.schedule is {settings.schedule!r}, but must be steps or cosine")


class Average:
    """Exponential moving average of a network's weights and batch statistics.

    The decay is smaller at first, so that the random start is soon forgotten.
    """

    def __init__(self, network: Amma, decay: float):
        self.decay = decay
        self.steps = 0
        self.values = {name: value.detach().clone() for name, value in network.state_dict().items()}

    def update(self, network: Amma) -> None:
        self.steps += 1
        decay = min(self.decay, self.steps / (self.steps + 10))
        state = network.state_dict()
        floating = [name for name, value in state.items() if value.is_floating_point()]
        torch._foreach_lerp_([self.values[n] for n in floating], [state[n] for n in floating], 1 - decay)

    def state_dict(self) -> dict:
        return {"steps": self.steps, "values": self.values}

    def load_state_dict(self, state: dict) -> None:
        self.steps, self.values = state["steps"], state["values"]
