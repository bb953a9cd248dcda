import numpy as np
import pytest
import torch

from amma_core import bundle
from amma_core.decoding import decode
from amma_core.detector import ActionDetector
from amma_core.network.mirrored import unmirror, unmirror_movement
from amma_core.runtime.torch_runtime import TorchRuntime


@pytest.fixture(scope="module")
def runtimes():
    network = bundle.load("amma_m_jhmdb21").build()
    return [TorchRuntime(network, "cpu", mirrored=mirrored) for mirrored in (False, True)]


@pytest.fixture
def clips():
    """Two clips of large blots."""
    blots = np.random.default_rng(0).integers(0, 256, (2, 4, 9, 9, 3), np.uint8)
    return blots.repeat(32, axis=2).repeat(32, axis=3)


def maps_of(runtime, clips, top=None):
    one, two = runtime.encode(clips)
    return runtime.head([[one, one, one, one, two], [one, two, two, two, two]], top)


def unmirrored(heat, movement, size):
    heat, movement, size = (torch.from_numpy(values) for values in (heat, movement, size))
    return [values.numpy() for values in (unmirror(heat), unmirror_movement(movement), unmirror(size))]


@pytest.mark.parametrize("x", [0.2, 3.0, 3.4, 3.5, 6.7, 7.4])
def test_a_box_is_where_it_is_in_the_mirror(x):
    """Of 8 cells: a centre, two cells wide, as training marks it in an image and in its mirror image."""

    def marked(x, before):
        heat, movement, size = np.zeros((1, 1, 8, 8)), np.zeros((1, 4, 8, 8)), np.zeros((1, 4, 8, 8))
        cell = np.clip(np.rint(x), 0, 7).astype(int)
        heat[0, 0, 5, cell] = 0.5
        movement[0, :, 5, cell] = before - cell, 0.25, x - cell, 0.25
        size[0] = 2
        return heat, movement, size

    seen = marked(x, before=x + 1)
    mirrored = unmirrored(*marked(8 - x, before=8 - x - 1))
    (box,), boxes = (decode(*(values[0] for values in maps), (80, 80))[2] for maps in (seen, mirrored))
    # At the edge two columns answer to the last one.
    np.testing.assert_allclose(boxes, [box] * (2 if x < 0.5 else 1), atol=1e-5)


def test_an_image_and_its_mirror_image_give_the_same_answers(runtimes, clips):
    plain, both = runtimes
    maps = maps_of(both, clips)
    again = unmirrored(*maps_of(both, np.ascontiguousarray(clips[:, :, :, ::-1])))
    for values, same in zip(maps, again, strict=True):
        # The first column has none that mirrors it.
        np.testing.assert_allclose(values[..., 1:], same[..., 1:], atol=1e-4)
    assert np.abs(maps[0] - maps_of(plain, clips)[0]).max() > 1e-3


def test_the_answer_is_the_mean_of_both(runtimes, clips):
    plain, both = runtimes
    seen, mirrored = maps_of(plain, clips), maps_of(plain, np.ascontiguousarray(clips[:, :, :, ::-1]))
    for mean, one, other in zip(maps_of(both, clips), seen, unmirrored(*mirrored), strict=True):
        np.testing.assert_allclose(mean, (one + other) / 2, atol=1e-4)


def test_movement_is_left_out_only_where_no_peak_of_the_mean_is(runtimes, clips):
    heat, movement, size = maps_of(runtimes[1], clips)
    same_heat, some_movement, same_size = maps_of(runtimes[1], clips, top=20)
    np.testing.assert_array_equal(same_heat, heat)
    np.testing.assert_array_equal(same_size, size)
    there = some_movement.any(axis=1)
    assert 0.001 < there.mean() < 0.1
    np.testing.assert_allclose(
        some_movement.transpose(0, 2, 3, 1)[there], movement.transpose(0, 2, 3, 1)[there], atol=1e-4
    )
    for sample in range(2):
        every, few = (
            decode(heat[sample], moves[sample], size[sample], (320, 240), top=20)
            for moves in (movement, some_movement)
        )
        assert len(every[0]) == 20
        for one, other in zip(every, few, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-2)


def test_a_stream_encodes_each_clip_and_its_mirror_image_once(runtimes):
    images = np.zeros((17, 48, 80, 3), np.uint8)
    encoded = []
    network = runtimes[1]._network.network
    hook = network.shrink.register_forward_hook(lambda _, inputs, __: encoded.append(len(inputs[0])))
    detector = ActionDetector(runtimes[1])
    answers = [answer for i, image in enumerate(images) for answer in detector.update(image, i * 33_000_000)]
    hook.remove()
    assert len(answers) == 4
    assert sum(encoded) == 2 * (4 + 1)  # and one for the copies of the first frame
