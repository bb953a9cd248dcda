"""Several models that answer as one."""

import json

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from amma_core import bundle
from amma_core.cli import main
from amma_core.config import NetworkConfig
from amma_core.detector import ActionDetector
from amma_core.errors import AmmaError
from amma_core.network import Amma
from amma_core.runtime.torch_runtime import TorchRuntime

LABELS = ["sit", "walk", "wave"]


def save(path, seed=0, labels=LABELS, fps=25.0, **network):
    torch.manual_seed(seed)
    settings = {"num_classes": len(labels), "backbone": "shufflenet_v2", "clips": 2, "input_size": 64}
    model = Amma(NetworkConfig(**(settings | network))).eval()
    nn.init.normal_(model.branches.center[2].weight, std=0.1)
    return bundle.save(path, model, labels, fps)


def join(path, **shares):
    path.mkdir()
    members = {f"../{name}": share for name, share in shares.items()}
    (path / "config.yaml").write_text(yaml.safe_dump({"members": members}, sort_keys=False))
    return path


@pytest.fixture
def committee(tmp_path):
    """Of two backbones, the first with late fusion."""
    save(tmp_path / "one")
    save(tmp_path / "other", seed=1, backbone="mobilenet_v2", late_fusion=0.3)
    return bundle.load(join(tmp_path / "both", other=0.7, one=0.3))


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("top", [None, 5])
def test_all_say_what_is_where_and_the_first_the_boxes(committee, mirrored, top):
    clips = np.random.default_rng(0).integers(0, 256, (3, 4, 64, 64, 3), np.uint8)

    def maps(model, top=None):
        runtime = TorchRuntime(model.build(), "cpu", mirrored=mirrored)
        one, two, three = runtime.encode(clips)
        return runtime.head([[one, two], [two, three]], top)

    heat, movement, size = maps(committee, top)
    first, second = (maps(member) for member in committee.members)
    there = movement.any(axis=1, keepdims=True) if top else True
    assert (np.mean(there) == 1) == (top is None)
    np.testing.assert_allclose(heat, 0.7 * first[0] + 0.3 * second[0], atol=1e-4)
    np.testing.assert_allclose(movement, first[1] * there, atol=1e-4)
    np.testing.assert_allclose(size, first[2], atol=1e-4)
    assert np.abs(first[0] - second[0]).max() > 1e-3


def test_a_stream_runs_it_as_any_model(committee):
    runtime = TorchRuntime(committee.build(), "cpu")
    detector = ActionDetector(runtime)
    images = np.random.default_rng(1).integers(0, 256, (9, 48, 80, 3), np.uint8)
    answers = [answer for i, image in enumerate(images) for answer in detector.update(image, i * 40_000_000)]
    assert [answer.key_numbers.tolist() for answer in answers] == [[1, 4], [4, 8]]
    assert runtime.clips_encoded == 2 + 1


def test_it_is_a_model_by_its_members(committee):
    assert (committee.name, committee.labels, committee.fps) == ("both", tuple(LABELS), 25.0)
    assert committee.trained
    assert committee.network == committee.members[0].network
    assert [file.parent.name for file in committee.weights] == ["other", "one"]
    with pytest.raises(
        AmmaError, match="both is a committee, without weights of its own: name one of its members"
    ):
        committee.build_one()


def test_it_has_no_weights_to_average(committee, capsys):
    path = str(committee.path)
    assert main(["average-models", path, path, "--output", str(committee.path.parent / "made")]) == 2
    assert "is a committee" in capsys.readouterr().err


def test_its_cost_is_that_of_each_member(committee, capsys):
    assert main(["info", "--model", str(committee.path), "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["backbone"] for line in lines] == ["mobilenet_v2", "shufflenet_v2"]


@pytest.mark.parametrize(
    ("one", "message"),
    [
        (
            {"labels": ["sit", "wave", "walk"]},
            r"labels is \['sit', 'wave', 'walk'\] of .*one, but \['sit', 'walk'",
        ),
        ({"fps": 30.0}, "fps is 30.0 of .*one, but 25.0 of .*other"),
        ({"clips": 3}, "clips is 3 of .*one, but 2 of .*other"),
        ({"clip_length": 5}, "clip_length is 5"),
        ({"input_size": 96}, "input_size is 96"),
    ],
)
def test_members_that_can_not_answer_as_one_are_refused(tmp_path, one, message):
    save(tmp_path / "one", **one)
    save(tmp_path / "other")
    with pytest.raises(AmmaError, match=f"both.config.yaml: {message}"):
        bundle.load(join(tmp_path / "both", other=0.7, one=0.3))


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ("../one", "members is '../one', but must name two or more models' folders, each with its share"),
        (["../one", "../other"], "but must name two or more"),
        ({"../one": 1.0}, "but must name two or more"),
        ({"../one": 0.6, "../other": "0.4"}, "but must name two or more"),
        ({"../one": 1.5, "../other": -0.5}, "but must name two or more"),
        ({"../one": 0.6, "../other": 0.5}, "the members' shares add up to 1.1, but must to 1"),
        ({"../one": 0.6, "../none": 0.4}, "no model '.*none'"),
        ({".": 0.6, "../one": 0.4}, "is a committee itself; name its members instead"),
    ],
)
def test_what_is_no_committee_is_refused(committee, members, message):
    (committee.path / "config.yaml").write_text(yaml.safe_dump({"members": members}, sort_keys=False))
    with pytest.raises(AmmaError, match=message):
        bundle.load(committee.path)
