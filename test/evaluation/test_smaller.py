import numpy as np
import pytest

from amma_core.evaluation.smaller import at_full_size, shown_smaller


@pytest.mark.parametrize("ratio", [1, 1.6, 2, 5])
@pytest.mark.parametrize("size", [(120, 160), (81, 203)])
def test_a_box_found_in_the_smaller_picture_is_where_it_was(ratio, size):
    height, width = size
    image = np.zeros((height, width, 3), np.uint8)
    image[20:60, 50:110] = 255
    shown = shown_smaller(image, ratio)
    assert shown.shape == image.shape
    rows, columns = (np.flatnonzero((shown[..., 0] > 127).any(axis=axis)) for axis in (1, 0))
    found = np.array([[columns[0], rows[0], columns[-1], rows[-1]]], np.float32)
    np.testing.assert_allclose(found[0, 2:] - found[0, :2] + 1, [60 / ratio, 40 / ratio], atol=1)
    np.testing.assert_allclose(at_full_size(found, ratio, width, height), [[50, 20, 109, 59]], atol=ratio)


def test_the_whole_picture_is_shown_and_what_is_around_it_is_no_part_of_it():
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (96, 128, 3), np.uint8)
    shown = shown_smaller(image, 2)
    means = image.reshape(48, 2, 64, 2, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(shown[24:72, 32:96], means, atol=1)
    assert shown[:20].std() < 10 < image.std()
    around = np.array([[0, 0, 30, 20], [100, 75, 127, 95], [-5, 30, 200, 60]], np.float32)
    boxes = at_full_size(around, 2, 128, 96)
    np.testing.assert_array_equal(boxes, [[0, 0, 0, 0], [127, 95, 127, 95], [0, 12, 127, 73]])
