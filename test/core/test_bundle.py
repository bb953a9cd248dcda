import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from amma_core import bundle
from amma_core.cli import main
from amma_core.config import NetworkConfig
from amma_core.errors import AmmaError
from amma_core.network import Amma

LABELS = ["sit", "walk", "wave"]
ROOT = Path(bundle.__file__).parents[1]
FOLDERS = sorted(
    file.parent for place in ("models", "benchmarks") for file in (ROOT / place).rglob("config.yaml")
)


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(0)
    network = Amma(NetworkConfig(num_classes=3, backbone="shufflenet_v2", clips=2, input_size=64)).eval()
    made = bundle.save(
        tmp_path / "mine", network, LABELS, 25, training={"epochs": 3}, metrics={"frame_mAP@0.5": 1.5}
    )
    return made, network


def change(path, **values):
    file = path / "config.yaml"
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | values))


def test_a_saved_model_comes_back(saved):
    made, network = saved
    loaded = bundle.load(made.path)
    assert (loaded.labels, loaded.fps, loaded.name, loaded.trained) == (tuple(LABELS), 25.0, "mine", True)
    assert loaded.training == {"epochs": 3}
    assert loaded.metrics == {"frame_mAP@0.5": 1.5}
    clips = torch.randint(0, 256, (1, 2, 4, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        for one, other in zip(loaded.build()(clips), network(clips), strict=True):
            torch.testing.assert_close(
                one, other, atol=2e-2, rtol=2e-2
            )  # matrices are kept in half precision


def test_vectors_keep_full_precision(saved):
    made, network = saved
    weights = made.build().state_dict()
    for name, tensor in network.state_dict().items():
        if tensor.ndim < 2:
            torch.testing.assert_close(weights[name], tensor, atol=0, rtol=0)


def test_the_shipped_untrained_model_is_found_and_always_the_same():
    untrained = bundle.load("untrained")
    assert not untrained.trained
    assert len(untrained.labels) == 21
    for one, other in zip(untrained.build().parameters(), untrained.build().parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_models_of_the_repository_are_whole(folder):
    model = bundle.load(folder)
    model.build()
    assert all(file.stat().st_size <= 20e6 for file in model.weights)


def test_reading_labels_does_not_load_torch():
    code = (
        "import sys; from amma_core.bundle import load; load('untrained'); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_models_in_a_workspace_are_found_by_name(saved, tmp_path, monkeypatch):
    made, _ = saved
    place = tmp_path / "install" / "share" / "amma_ros" / "models"
    place.mkdir(parents=True)
    made.path.rename(place / "mine")
    monkeypatch.setenv("AMENT_PREFIX_PATH", f"/nowhere:{tmp_path / 'install'}")
    assert bundle.load("mine").path == place / "mine"


def test_a_model_has_the_name_of_its_folder_however_it_is_reached(saved, monkeypatch):
    monkeypatch.chdir(saved[0].path)
    assert [bundle.load(path).name for path in (".", "../mine")] == ["mine", "mine"]


def test_a_folder_that_is_no_model_does_not_hide_the_shipped_one(tmp_path, monkeypatch):
    (tmp_path / "untrained").mkdir()
    monkeypatch.chdir(tmp_path)
    assert not bundle.load("untrained").trained
    with pytest.raises(AmmaError, match=r"config\.yaml is missing"):
        bundle.load("./untrained")


def test_a_model_is_saved_in_the_home_that_is_named(saved, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    bundle.save("~/mine", saved[1], LABELS, 25)
    assert bundle.load(tmp_path / "home" / "mine").labels == tuple(LABELS)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e5])
def test_weights_that_half_precision_cannot_hold_are_refused_by_name(saved, value):
    made, network = saved
    before = (made.path / "model.safetensors").read_bytes()
    with torch.no_grad():
        network.branches.center[2].weight[0] = value
    with pytest.raises(AmmaError, match=r"is not written, as branches\.center\.2\.weight holds values"):
        bundle.save(made.path, network, LABELS, 25)
    assert (made.path / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("change", "error"),
    [({"training": {"rate": object()}}, yaml.YAMLError), ({"labels": ["a", "b", " "]}, AmmaError)],
)
def test_what_cannot_be_written_down_leaves_the_model_as_it_was(saved, change, error):
    made, network = saved
    before = {file.name: file.read_bytes() for file in made.path.iterdir()}
    with torch.no_grad():
        network.branches.center[2].weight += 1
    with pytest.raises(error):
        bundle.save(made.path, network, **({"labels": LABELS, "fps": 25} | change))
    assert {file.name: file.read_bytes() for file in made.path.iterdir()} == before


def test_a_model_is_not_saved_where_no_folder_can_be(saved):
    with pytest.raises(
        AmmaError, match=r"the folder .*model\.safetensors/no cannot be made: Not a directory"
    ):
        bundle.save(saved[0].path / "model.safetensors" / "no", saved[1], LABELS, 25)


def test_what_is_missing_or_wrong_is_named(saved, tmp_path):
    path = saved[0].path
    with pytest.raises(AmmaError, match=r"no model 'nope'; .*untrained"):
        bundle.load("nope")
    with pytest.raises(AmmaError, match=r"is a file, but a model is a folder"):
        bundle.load(path / "model.safetensors")
    with pytest.raises(AmmaError, match=r"config\.yaml is missing"):
        bundle.load(tmp_path)

    good = (path / "config.yaml").read_text()
    for values, message in [
        ({"labels": None}, "labels is missing"),
        ({"labels": ["a", "b"]}, "2 labels, but network says num_classes: 3"),
        ({"network": None}, "network is missing"),
        ({"network": {"backbone": "vgg"}}, "backbone is 'vgg'"),
        ({"labels": ["a", False, "c"]}, "one of the labels is False, which is no text; .* in quotes"),
        ({"labels": ["a", " ", "c"]}, "one of the labels is blank"),
        ({"labels": ["a", "c", "c"]}, "the label 'c' stands there twice"),
        ({"network": {"depth": 3, 1: 2}}, "unknown network setting 1"),
        ({"fps": "fast"}, "fps is 'fast'"),
        ({"fps": float("inf")}, "fps is inf"),
        ({"fps": True}, "fps is True"),
        ({"trained": "no"}, "trained is 'no', but must be true or false"),
        ({"training": 5}, "training is 5, but must be a mapping"),
        ({"metrics": [1]}, r"metrics is \[1\], but must be a mapping"),
    ]:
        change(path, **values)
        with pytest.raises(AmmaError, match=message) as caught:
            bundle.load(path)
        assert "config.yaml" in str(caught.value)
        (path / "config.yaml").write_text(good)

    (path / "config.yaml").write_text("labels: [a")
    with pytest.raises(AmmaError, match="not valid YAML"):
        bundle.load(path)
    (path / "config.yaml").write_text("labels: " + "[" * 10_000)
    with pytest.raises(AmmaError, match="nested too deeply"):
        bundle.load(path)
    (path / "config.yaml").write_text("just words")
    with pytest.raises(AmmaError, match="holds no settings"):
        bundle.load(path)


def test_models_are_averaged(saved, tmp_path):
    made, network = saved
    weights = network.state_dict()
    higher = {name: values + 1 if values.is_floating_point() else values for name, values in weights.items()}
    other = Amma(network.config)
    other.load_state_dict(higher)
    bundle.save(tmp_path / "other", other, LABELS, 25, training={"recipe": {"seed": 2}})
    names = [str(made.path), str(tmp_path / "other")]
    assert main(["average-models", *names, "--output", str(tmp_path / "mean")]) == 0
    mean = bundle.load(tmp_path / "mean")
    assert (mean.labels, mean.network, mean.fps) == (made.labels, made.network, made.fps)
    assert mean.training["average_of"] == [
        {"model": names[0], "epochs": 3},
        {"model": names[1], "recipe": {"seed": 2}},
    ]
    for name, values in mean.build().state_dict().items():
        if values.is_floating_point():
            torch.testing.assert_close(values, weights[name] + 0.5, atol=2e-3, rtol=2e-3)


def test_models_that_do_not_fit_together_are_not_averaged(saved, tmp_path, capsys):
    path = str(saved[0].path)
    for models, message in [([path], "is only one model"), ([path, "untrained"], "has another network")]:
        assert main(["average-models", *models, "--output", str(tmp_path / "no")]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


def test_wrong_weights_are_refused(saved):
    path = saved[0].path
    settings = saved[1].config.to_dict()
    change(path, network=settings | {"backbone": "resnet18"})
    with pytest.raises(AmmaError, match=r"model\.safetensors: backbone\.\S+ (is missing|has shape)"):
        bundle.load(path).build()
    change(path, network=settings | {"clips": 3})
    with pytest.raises(AmmaError, match="the two files do not belong together"):
        bundle.load(path).build()
    change(path, network=settings | {"motion": "none", "fusion_stages": 0})
    with pytest.raises(AmmaError, match=r"has shape|has no place"):
        bundle.load(path).build()
    change(path, network=settings)
    whole = (path / "model.safetensors").read_bytes()
    (path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(AmmaError, match="not a whole safetensors file"):
        bundle.load(path).build()
    (path / "model.safetensors").unlink()
    with pytest.raises(AmmaError, match=r"model\.safetensors is missing"):
        bundle.load(path)
