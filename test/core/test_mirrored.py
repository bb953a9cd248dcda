import numpy as np
import pytest

from amma_core import bundle
from amma_core.decoding import decode
from amma_core.detector import ActionDetector
from amma_core.runtime.mirrored import MirroredRuntime, unmirror
from amma_core.runtime.torch_runtime import TorchRuntime


@pytest.fixture(scope="module")
def runtime():
    return TorchRuntime(bundle.load("amma_m_jhmdb21").build(), "cpu")


@pytest.fixture
def clips():
    """Two clips of large blots."""
    blots = np.random.default_rng(0).integers(0, 256, (2, 4, 9, 9, 3), np.uint8)
    return blots.repeat(32, axis=2).repeat(32, axis=3)


def maps_of(runtime, clips):
    one, two = runtime.encode(clips)
    return runtime.head([[one, one, one, one, two], [one, two, two, two, two]], None)


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
    mirrored = unmirror(*marked(8 - x, before=8 - x - 1))
    (box,), boxes = (decode(*(values[0] for values in maps), (80, 80))[2] for maps in (seen, mirrored))
    # At the edge two columns answer to the last one.
    np.testing.assert_allclose(boxes, [box] * (2 if x < 0.5 else 1), atol=1e-5)


def test_an_image_and_its_mirror_image_give_the_same_answers(runtime, clips):
    both = MirroredRuntime(runtime)
    maps = maps_of(both, clips)
    again = unmirror(*maps_of(both, clips[:, :, :, ::-1]))
    for values, same in zip(maps, again, strict=True):
        # The first column has none that mirrors it.
        np.testing.assert_allclose(values[..., 1:], same[..., 1:], atol=1e-4)
    assert np.abs(maps[0] - maps_of(runtime, clips)[0]).max() > 1e-3


def test_the_answer_is_the_mean_of_both(runtime, clips):
    maps = maps_of(MirroredRuntime(runtime), clips)
    seen, mirrored = maps_of(runtime, clips), maps_of(runtime, np.ascontiguousarray(clips[:, :, :, ::-1]))
    for mean, one, other in zip(maps, seen, unmirror(*mirrored), strict=True):
        np.testing.assert_allclose(mean, (one + other) / 2, atol=1e-4)


def test_a_stream_costs_twice_as_many_clips_and_no_more(runtime):
    images = np.zeros((17, 48, 80, 3), np.uint8)
    before = runtime.clips_encoded
    detector = ActionDetector(MirroredRuntime(runtime))
    answers = [answer for i, image in enumerate(images) for answer in detector.update(image, i * 33_000_000)]
    assert len(answers) == 4
    assert detector.runtime.clips_encoded - before == 2 * (4 + 1)  # and one for the copies of the first frame
