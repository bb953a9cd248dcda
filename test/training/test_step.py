import torch

from amma_core.config import NetworkConfig
from amma_core.network import Amma
from amma_core.training.step import Step


def test_hidden_windows_show_their_motion_alone():
    """With everything hidden nothing depends on the newest frames' colours, but for what they tell of motion."""
    torch.manual_seed(0)
    step = Step(Amma(NetworkConfig(num_classes=2, backbone="mobilenet_v2", clips=2, input_size=64)), hidden=0.5)
    newest = torch.ones(400, 3, 8, 8)
    windows = torch.arange(400).unflatten(0, (200, 2))
    hidden = (step._hide(newest, windows) == 0).all(dim=(1, 2, 3)).unflatten(0, (200, 2))
    assert (hidden[:, 0] == hidden[:, 1]).all()  # the whole window or nothing of it
    assert 60 < hidden[:, 0].sum() < 140
    step.hidden = 1.0
    assert not step._hide(newest, windows).any()
