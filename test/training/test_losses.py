import math

import pytest
import torch

from amma_core.network import Maps
from amma_core.training.losses import (
    Losses,
    confusion,
    focal,
    generalised_iou,
    losses,
    misfit,
)
from amma_core.training.targets import Targets


def test_focal_loss_by_hand():
    probability = torch.tensor([[0.8, 0.3, 0.1, 0.6]])
    target = torch.tensor([[1.0, 0.5, 0.0, 1.0]])
    expected = (
        0.2**2 * -math.log(0.8)
        + 0.4**2 * -math.log(0.6)
        + 0.5**4 * 0.3**2 * -math.log(0.7)
        + 0.1**2 * -math.log(0.9)
    ) / 2
    assert focal(probability, target).item() == pytest.approx(expected, rel=1e-5)


def test_focal_loss_without_a_positive_is_not_divided():
    assert focal(torch.tensor([0.5, 0.5]), torch.zeros(2)).item() == pytest.approx(2 * 0.25 * math.log(2))


def test_focal_loss_stays_finite_where_the_answer_is_certain_and_wrong():
    answer = torch.tensor([0.0, 1.0], requires_grad=True)
    loss = focal(answer, torch.tensor([1.0, 0.0]))
    # Clamped to 1e-4: (1 - 1e-4)^2 * -log(1e-4), twice.
    assert loss.item() == pytest.approx(2 * (1 - 1e-4) ** 2 * -math.log(1e-4), rel=1e-3)
    loss.backward()
    assert torch.isfinite(answer.grad).all()


def maps_of(clips: int, grid: int) -> Maps:
    """Two windows; every value tells its place: 1000 * window + 100 * channel + 10 * row + column."""
    place = (
        1000 * torch.arange(2).view(2, 1, 1, 1)
        + 100 * torch.arange(2 * clips).view(1, -1, 1, 1)
        + 10 * torch.arange(grid).view(1, 1, -1, 1)
        + torch.arange(grid)
    ).float()
    return Maps(torch.full((2, 1, grid, grid), 0.5), place, place)


def test_movement_is_read_at_the_newest_cell_and_size_at_each_own():
    cells = torch.tensor([[[0, 1], [3, 2]]])  # (column, row) on the older and on the newer key frame
    window, labels = torch.tensor([1]), torch.tensor([0])
    movement = torch.tensor([[[1023.0, 1123.0], [1223.0, 1323.0]]])
    size = torch.tensor([[[1010.0, 1110.0], [1223.0, 1323.0]]])
    targets = Targets(torch.zeros(2, 1, 4, 4), window, labels, cells, movement, size)
    exact = losses(maps_of(2, 4), targets)
    assert exact.movement == 0
    assert exact.size == 0
    off = losses(maps_of(2, 4), targets._replace(movement=movement + 2, size=size - torch.eye(2)))
    assert off.movement == 2
    assert off.size == 0.5  # two of the four numbers are off by one


def test_without_actions_only_the_center_branch_is_judged():
    none = torch.zeros(0, 2, 2)
    maps = maps_of(2, 4)
    maps.movement.requires_grad_()
    numbers = none[:, 0, 0].long()
    targets = Targets(torch.zeros(2, 1, 4, 4), numbers, numbers, none.long(), none, none)
    parts = losses(maps, targets)
    assert parts.movement == 0
    assert parts.size == 0
    parts.total(label_weight=1.0).backward()
    assert not maps.movement.grad.any()


def test_classes_compete_at_the_newest_centre():
    heat = torch.full((1, 2, 3, 3), 0.3)
    heat[0, :, 1, 2] = torch.tensor([0.5, 0.2])  # logits 0 and log(1 / 4): odds of 4 to 1
    cells = torch.tensor([[[0, 0], [2, 1]]])
    nothing = torch.zeros(1, 2, 2)
    maps = Maps(heat, torch.zeros(1, 4, 3, 3), torch.zeros(1, 4, 3, 3))
    first, second = torch.tensor([0]), torch.tensor([1])
    targets = Targets(torch.zeros(1, 2, 3, 3), first, first, cells, nothing, nothing)
    right, wrong = losses(maps, targets), losses(maps, targets._replace(labels=second))
    assert right.label.item() == pytest.approx(-math.log(4 / 5), rel=1e-5)
    assert wrong.label.item() == pytest.approx(-math.log(1 / 5), rel=1e-5)


def test_total_weighs_the_box_loss_by_a_tenth_and_our_own_as_asked():
    parts = Losses(*torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]))
    assert parts.total() == pytest.approx(3.3)
    assert parts.total(box_weight=0.4) == pytest.approx(4.2)
    assert parts.total(overlap_weight=3.0) == pytest.approx(15.3)
    assert parts.total(label_weight=0.5) == pytest.approx(5.8)


def test_generalised_iou_by_hand():
    def of(*boxes):  # each as cx, cy, w, h
        return generalised_iou(*(torch.tensor(part) for box in boxes for part in (box[:2], box[2:]))).item()

    assert of((3.0, 4.0, 2.0, 6.0), (3.0, 4.0, 2.0, 6.0)) == pytest.approx(1)
    # 2x2 boxes one to the right of each other: 2 of 6 shared, and together they fill their hull.
    assert of((1.0, 1.0, 2.0, 2.0), (2.0, 1.0, 2.0, 2.0)) == pytest.approx(1 / 3)
    # Apart by two widths: nothing shared, 8 of the hull's 16 filled.
    assert of((1.0, 1.0, 2.0, 2.0), (7.0, 1.0, 2.0, 2.0)) == pytest.approx(-0.5)
    assert of((1.0, 1.0, 0.0, 0.0), (1.0, 1.0, 2.0, 2.0)) == 0


def decoded_as(centres: torch.Tensor, sizes: torch.Tensor, grid: int) -> Maps:
    """Maps from which every cell decodes to the same (K, 2) centres and sizes."""
    rows, columns = torch.meshgrid(torch.arange(grid), torch.arange(grid), indexing="ij")
    place = torch.stack([columns, rows]).float()  # (2, G, G)
    movement = (centres[:, :, None, None] - place).flatten(0, 1)[None]
    size = sizes[:, :, None, None].expand(-1, -1, grid, grid).flatten(0, 1)[None]
    return Maps(torch.full((1, 1, grid, grid), 0.5), movement.clone(), size.clone())


def test_boxes_are_compared_in_the_middle_as_they_will_be_decoded():
    # In the middle of the newest box lie x of 3 to 5 (once, thrice, once) and y of 0 to 2: four of the five
    # rows are 0 or 1 cell below the centre or above it, where the border stops them, and one is 2 below.
    centres, sizes = torch.tensor([[2.3, 3.1], [4.4, 0.2]]), torch.tensor([[2.0, 4.0], [3.0, 7.0]])
    maps = decoded_as(centres, sizes, grid=6)
    cells = torch.tensor([[[2, 3], [4, 0]]])
    movement = (centres - cells[0, -1])[None]
    one = torch.tensor([0])
    targets = Targets(torch.zeros(1, 1, 6, 6), one, one, cells, movement, sizes[None])
    assert misfit(maps, targets).item() == pytest.approx(0, abs=1e-6)

    # One place forgets the way on the older key frame, by the box's whole width: nothing is shared there,
    # and the hull is filled. Each is one of 2 x 25 boxes for as often as it is asked.
    for column, row, times in [(5, 2, 1), (5, 1, 1), (5, 0, 3), (4, 2, 3), (4, 0, 9), (4, 3, 0), (2, 0, 0)]:
        maps.movement[0, 0, row, column] += 2.0
        assert misfit(maps, targets).item() == pytest.approx(times / 50, abs=1e-6)
        maps.movement[0, 0, row, column] -= 2.0
    # Half the width at a place of the older centre's own: half the IoU.
    maps.size[0, 0, 1, 1] /= 2
    assert misfit(maps, targets).item() == pytest.approx(0.5 / 50, abs=1e-6)


def test_without_actions_there_is_no_misfit_but_a_gradient_of_zero():
    none = torch.zeros(0, 2, 2)
    maps = Maps(*(torch.zeros(1, channels, 4, 4, requires_grad=True) for channels in (1, 4, 4)))
    numbers = none[:, 0, 0].long()
    targets = Targets(torch.zeros(1, 1, 4, 4), numbers, numbers, none.long(), none, none)
    loss = misfit(maps, targets)
    assert loss.item() == 0
    loss.backward()
    assert not maps.movement.grad.any()
    assert not maps.size.grad.any()


def test_label_smoothing_spreads_the_target_over_all_classes():
    odds = torch.tensor([[0.5, 0.2]])  # odds of 4 to 1, as above
    smoothed = confusion(odds, torch.tensor([0]), smoothing=0.1)
    assert smoothed.item() == pytest.approx(-0.95 * math.log(4 / 5) - 0.05 * math.log(1 / 5), rel=1e-5)
