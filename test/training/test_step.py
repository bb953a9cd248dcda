import numpy as np
import torch

from amma_core.config import NetworkConfig
from amma_core.network import Amma
from amma_core.training.step import Step
from amma_core.training.targets import Targets, join, window_targets

CONFIG = NetworkConfig(num_classes=2, backbone="mobilenet_v2", clips=2, input_size=64)


def test_hidden_windows_show_their_motion_alone():
    """Lighter frames look different and move the same."""
    torch.manual_seed(0)
    network = Amma(CONFIG)  # in training, where norms make much of little
    clips = torch.randint(0, 200, (4, 4, 3, 64, 64))
    windows = torch.tensor([[0, 1], [2, 3]])
    box = np.full((1, 2, 4), [2.0, 2.0, 5.0, 6.0])
    targets = join([window_targets(box, np.array([label]), 2, 8) for label in (0, 1)])
    targets = Targets(*map(torch.from_numpy, targets))

    def center_loss(clips: torch.Tensor, hidden: float) -> float:
        with torch.no_grad():
            return float(Step(network, hidden=hidden)(clips, windows, targets).center)

    still, lighter = clips[:, -1:].expand_as(clips), clips + 50
    assert abs(center_loss(lighter, 1.0) - center_loss(clips, 1.0)) < 1e-4
    assert abs(center_loss(lighter, 0.0) - center_loss(clips, 0.0)) > 1e-3
    assert abs(center_loss(still, 1.0) - center_loss(clips, 1.0)) > 1e-3


def test_as_many_windows_are_hidden_as_the_recipe_says():
    torch.manual_seed(0)
    step = Step(Amma(CONFIG), hidden=0.5)
    windows = torch.arange(400).unflatten(0, (200, 2))
    hidden = (step._hide(torch.ones(400, 3, 8, 8), windows) == 0).all(dim=(1, 2, 3)).unflatten(0, (200, 2))
    assert (hidden[:, 0] == hidden[:, 1]).all()  # the whole window or nothing of it
    assert 60 < hidden[:, 0].sum() < 140
