import json

import numpy as np
import pytest
import torch

from amma_core.config import NetworkConfig
from amma_core.data.cache import FrameCache
from amma_core.data.dataset import ActionTube, Video
from amma_core.errors import AmmaError
from amma_core.network import Amma
from amma_core.training.hints import Hints, boxes_near, open_or_make, square_around, watch
from amma_core.training.i3d import I3D
from amma_core.training.step import Step
from amma_core.training.targets import Targets

CPU = torch.device("cpu")


def video(name: str, boxes: int = 2) -> Video:
    tubes = [ActionTube(0, np.array([[1, 4, 4, 12, 12], [9, 6, 4, 14, 12]], float))] * boxes
    return Video(name, None, 9, 32, 24, 30.0, tubes)


@pytest.fixture
def cache(tmp_path) -> FrameCache:
    frames = np.random.default_rng(0).integers(0, 256, (9, 24, 32, 3), np.uint8)
    (tmp_path / "frames.u8").write_bytes(frames.tobytes())
    shapes = {name: [0, *frames.shape[:3]] for name in "ab"}
    (tmp_path / "index.json").write_text(json.dumps({"max_side": None, "videos": shapes}))
    return FrameCache(tmp_path)


def test_every_frame_has_its_steps_features_standardised_over_all_videos():
    hints = Hints({"a": np.array([[[0.0, 7.0], [2.0, 7.0]]]), "b": np.array([[[4.0, 7.0]], [[6.0, 7.0]]])})
    # 0, 2, 4, 6: mean 3, standard deviation 5 ** 0.5; the second feature never changes.
    assert hints.channels == 2
    steps = hints.at("a", np.array([1, 8, 9, 16, 17]))
    assert steps.shape == (1, 5, 2)
    np.testing.assert_allclose(steps[0, :, 0], np.array([-3, -3, -1, -1, -1]) / 5**0.5, rtol=1e-3)
    assert not steps[..., 1].any()
    np.testing.assert_allclose(hints.at("b", np.array([3]))[:, 0, 0], np.array([1, 3]) / 5**0.5, rtol=1e-3)


def test_the_teacher_sees_a_square_around_the_action_in_rgb():
    frames = np.zeros((2, 100, 200, 3), np.uint8)
    frames[:, 30:50, 60:80] = (10, 20, 250)  # BGR
    seen = square_around(frames, np.array([[60.0, 30.0, 80.0, 50.0]]))
    assert seen.shape == (2, 224, 224, 3)
    lit = np.argwhere(seen[0, ..., 0] > 125)
    side = 224 / 1.3
    np.testing.assert_allclose(lit.min(axis=0), (224 - side) / 2, atol=5)
    np.testing.assert_allclose(lit.max(axis=0), (224 + side) / 2, atol=5)
    assert seen[0, 112, 112].tolist() == [250, 20, 10]
    point = square_around(frames, np.array([[70.0, 40.0, 70.0, 40.0]]))  # a box may have no area
    assert (point == [250, 20, 10]).all()


def test_a_teacher_watches_every_action_of_a_video(cache):
    torch.manual_seed(0)
    first, none = watch([video("a"), video("b", boxes=0)], cache, I3D().requires_grad_(False))
    assert first.shape == (2, 2, 1024)  # nine frames are two steps
    assert np.isfinite(first).all()
    assert (first[0] == first[1]).all()
    assert none.shape == (0, 2, 1024)


def test_a_file_of_other_videos_is_refused(cache, tmp_path):
    path = tmp_path / "hints.npz"
    np.savez(path, a=np.ones((2, 2, 5), np.float16))
    assert open_or_make(path, [video("a")], cache, tmp_path, CPU).channels == 5
    for others in ([video("a"), video("b")], [video("a", boxes=1)]):
        with pytest.raises(AmmaError, match=r"hints\.npz does not hold the hints for these videos"):
            open_or_make(path, others, cache, tmp_path, CPU)
    path.write_bytes(b"cut short")
    with pytest.raises(AmmaError, match=r"name another file as teacher"):
        open_or_make(path, [video("a")], cache, tmp_path, CPU)


def test_an_action_is_followed_and_waited_for_where_it_was_last():
    tube = ActionTube(0, np.array([[1, 0, 0, 1, 1], [60, 1, 0, 2, 1], [70, 2, 0, 3, 1]], float))
    assert boxes_near(tube, 0, 64)[:, 0].tolist() == [0, 1]
    assert boxes_near(tube, 64, 64)[:, 0].tolist() == [2]
    assert boxes_near(tube, 128, 64)[:, 0].tolist() == [2]


def test_hints_are_read_where_the_classes_are_told():
    """What a step reads at two cells is what the center branch has there in its whole map."""
    network = Amma(NetworkConfig(num_classes=2, backbone="mobilenet_v2", clips=2, input_size=64))
    features = torch.randn(3, 2, 64, 8, 8)
    cells = torch.tensor([[[1, 1], [0, 7]], [[1, 1], [5, 2]]])  # column, row: a corner, and the middle
    window = torch.tensor([2, 0])
    nothing = torch.zeros(2, 2, 2)
    targets = Targets(torch.zeros(3, 2, 8, 8), window, window, cells, nothing, nothing, torch.zeros(2, 4))
    with torch.no_grad():
        hidden = Step(network)._before_classes(features, targets)
        whole = network.branches.center[:2](features.flatten(1, 2))
    torch.testing.assert_close(hidden, torch.stack([whole[2, :, 7, 0], whole[0, :, 2, 5]]))


def test_the_network_learns_to_say_the_hints():
    torch.manual_seed(0)
    network = Amma(NetworkConfig(num_classes=2, backbone="shufflenet_v2", clips=1, input_size=64))
    step = Step(network, reader=torch.nn.Linear(256, 3))
    clips = torch.randint(0, 256, (4, 4, 3, 64, 64), dtype=torch.uint8)
    cells, nothing = torch.full((4, 1, 2), 3), torch.zeros(4, 1, 2)
    each, hints = torch.arange(4), torch.randn(4, 3)
    targets = Targets(torch.zeros(4, 2, 8, 8), each, each % 2, cells, nothing, nothing, hints)
    optimizer = torch.optim.Adam(step.parameters(), 1e-3)
    losses = []
    for _ in range(15):
        hint = step(clips, each[:, None], targets).hint
        optimizer.zero_grad()
        hint.backward()
        optimizer.step()
        losses.append(hint.item())
    assert losses[-1] < losses[0] / 4
