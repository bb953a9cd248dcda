"""Recordings: read whole and damaged, searched without a graph, and played to the real nodes."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from amma_ros.msg import ActionTube, ActionTubeArray
from bags import DELAY, IMAGE, SECOND, START, compressed, film, image, stamps, words, write_bag
from rcl_interfaces.msg import Log
from rclpy.serialization import deserialize_message, serialize_message
from ros_graph import LABELS
from rosbags.rosbag2 import Reader, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image
from std_msgs.msg import String
from vision_msgs.msg import Detection2DArray, LabelInfo

from amma_core.cli import main
from amma_core.errors import AmmaError
from amma_ros import conversions, pacing
from amma_ros.bag_player import BagPlayer
from amma_ros.bag_reader import BagReader
from amma_ros.detector_node import DetectorNode
from amma_ros.linker_node import LinkerNode
from amma_ros.node import LATCHED

KINDS = {"/detections": Detection2DArray, "/action_tubes": ActionTubeArray, "/label_info": LabelInfo}


@pytest.fixture(scope="module")
def search(tiny_model, tmp_path_factory):
    """Runs `amma bag` on the CPU, reporting every tube; returns the exit status."""
    parameters = tmp_path_factory.mktemp("parameters") / "all.yaml"
    parameters.write_text(yaml.safe_dump({"/**": {"ros__parameters": {"min_score": 0.0, "device": "cpu"}}}))

    def run(*words) -> int:
        given = ["--model", tiny_model, "--params-file", parameters]
        return main(["bag", *map(str, [*words, *given])])

    return run


def contents(path: Path) -> dict[str, list]:
    """By topic: (time, message)."""
    found = {topic: [] for topic in KINDS}
    with BagReader(path) as bag:
        for message in bag.messages(set(KINDS)):
            found[message.topic].append(
                (message.time, deserialize_message(message.data, KINDS[message.topic]))
            )
    return found


def raw(path: Path, topics=(IMAGE,)) -> tuple[list, str]:
    """Messages that can be read, and the fault."""
    with BagReader(path) as bag:
        return list(bag.messages(set(topics))), bag.fault


def storage_file(bag: Path) -> Path:
    return next(path for path in bag.iterdir() if path.name != "metadata.yaml")


# Searching ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("storage", "compression"),
    [
        ("mcap", "none"),
        ("mcap", "storage"),
        ("mcap", "file"),
        ("mcap", "message"),
        ("sqlite3", "none"),
        ("sqlite3", "file"),
        ("sqlite3", "message"),
    ],
)
@pytest.mark.parametrize("make", [image, compressed])
def test_every_kind_of_bag_gives_a_detection_array_per_image(search, tmp_path, storage, compression, make):
    bag = write_bag(tmp_path / "bag", {IMAGE: film(9, make), "/words": words(3)}, storage, compression)
    assert search(bag, "--output", tmp_path / "out.mcap") == 0
    found = contents(tmp_path / "out.mcap")
    assert [time for time, _ in found["/detections"]] == [stamp + DELAY for stamp in stamps(9)]
    headers = [message.header for _, message in found["/detections"]]
    assert [conversions.to_nanoseconds(header.stamp) for header in headers] == stamps(9)
    assert {header.frame_id for header in headers} == {"eye"}
    assert sum(len(message.detections) for _, message in found["/detections"]) > 9
    key_frames = [stamps(9)[n - 1] for n in (4, 8, 9)]
    tubes = found["/action_tubes"]
    assert [conversions.to_nanoseconds(message.header.stamp) for _, message in tubes[:3]] == key_frames
    assert [time for time, _ in tubes[:3]] == [stamp + DELAY for stamp in key_frames]
    ((time, labels),) = found["/label_info"]
    assert time == START + DELAY
    assert conversions.to_nanoseconds(labels.header.stamp) == START
    assert [label.class_name for label in labels.class_map] == LABELS


def test_two_runs_write_the_same_bytes(search, tmp_path):
    bag = write_bag(tmp_path / "bag", {IMAGE: film(14)})
    for name in ("one", "two"):
        assert search(bag, "--output", tmp_path / name / "out.mcap") == 0
    one, two = (raw(tmp_path / name / "out.mcap", KINDS)[0] for name in ("one", "two"))
    assert one == two
    assert len(one) > 14


@pytest.mark.parametrize("name", ["out.mcap", "out.db3", "out"])
def test_the_output_is_a_file_or_a_folder_with_the_types_of_its_messages(search, tmp_path, name):
    bag = write_bag(tmp_path / "bag", {IMAGE: film(5)})
    assert search(bag, "--output", tmp_path / name) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bag", name]
    with Reader(tmp_path / name) as reader:
        for connection in reader.connections:
            kind = KINDS[connection.topic]
            package = kind.__module__.partition(".")[0]
            described = Path(sys.prefix, "share", package, "msg", f"{kind.__name__}.json")
            if described.exists() and connection.digest:  # an MCAP file alone does not hold the digest
                hashes = json.loads(described.read_text())["type_hashes"]
                assert connection.digest == hashes[0]["hash_string"]
            assert kind.__name__ == connection.msgtype.split("/")[-1]
            assert "MSG: std_msgs/Header" in connection.msgdef.data


def test_the_summary_is_one_line_of_json(search, tmp_path, capsys):
    bag = write_bag(tmp_path / "bag", {IMAGE: film(5)})
    assert search(bag, "--json") == 0
    answer = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert answer["topic"] == IMAGE
    assert answer["images"] == 5
    assert answer["left_out"] == 0
    assert answer["fault"] is None
    assert answer["detections"] > 0


def test_images_without_a_picture_are_left_out(search, tmp_path, capsys):
    depth = image(0, START + 1)
    depth.encoding = "32FC1"
    messages = [*film(5), (START + DELAY + 1, depth), (START + DELAY + 2, b"\x00\x01\x00\x00nonsense")]
    bag = write_bag(tmp_path / "bag", {IMAGE: messages})
    assert search(bag, "--output", tmp_path / "out.mcap") == 0
    assert (
        "2 images were left out; of the first: an image has the encoding '32FC1'" in capsys.readouterr().err
    )
    assert len(contents(tmp_path / "out.mcap")["/detections"]) == 5


def test_a_search_that_fails_leaves_nothing(search, tmp_path, capsys):
    bag = write_bag(tmp_path / "bag", {IMAGE: [(START, b"\x00\x01\x00\x00nonsense")]})
    kept = tmp_path / "kept.mcap"
    kept.write_text("mine")
    assert search(bag, "--output", tmp_path / "out.mcap") == 2
    assert f"not one image of {IMAGE} can be read" in capsys.readouterr().err
    assert search(bag, "--output", kept) == 2
    assert "exists already" in capsys.readouterr().err
    assert kept.read_text() == "mine"
    assert search(bag, "--output", tmp_path / "out.avi") == 2
    assert "must end in .mcap or .db3" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bag", "kept.mcap"]


def test_a_bag_that_is_cut_off_is_searched_up_to_there(search, tmp_path, capsys):
    bag = write_bag(tmp_path / "bag", {IMAGE: film(9)})
    file = storage_file(bag)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert search(bag, "--output", tmp_path / "out.mcap", "--json") == 2
    said = capsys.readouterr()
    assert f"{file} is damaged or cut off: its end is missing" in said.err
    answer = json.loads(said.out.splitlines()[-1])
    assert 2 < answer["images"] < 9
    assert f"{answer['images']} images of {IMAGE} lie before that; what was found until then" in said.err
    assert "cut off" in answer["fault"]
    assert len(contents(tmp_path / "out.mcap")["/detections"]) == answer["images"]


def test_the_parameters_are_those_of_the_nodes(tmp_path, tiny_model, capsys):
    bag = write_bag(tmp_path / "bag", {IMAGE: film(9)})

    def run(**parameters) -> int:
        path = tmp_path / "parameters.yaml"
        path.write_text(yaml.safe_dump({"/**": {"ros__parameters": {"device": "cpu"} | parameters}}))
        return main(["bag", str(bag), "--params-file", str(path), "--json", "--model", tiny_model])

    assert run(min_score=1.0) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["detections"] == 0
    assert run(min_scor=1.0) == 2
    assert "did you mean 'min_score'?" in capsys.readouterr().err
    assert run(min_score=2) == 2
    assert "min_score is 2.0, but must be from 0.0 to 1.0" in capsys.readouterr().err
    assert run(class_min_scores=["nod=0.5"]) == 2
    assert "there is no class 'nod'; the model knows fall, push, wave" in capsys.readouterr().err
    assert run(min_score="high") == 2
    assert "min_score is 'high', but must be a double" in capsys.readouterr().err


def test_a_search_can_be_judged(search, tmp_path, capsys):
    bag = write_bag(tmp_path / "bag", {IMAGE: film(12)})
    truth = {
        "labels": ["other", *LABELS],
        "videos": {
            "bag": {
                "frames": 12,
                "width": 64,
                "height": 48,
                "fps": 25,
                "tubes": [{"label": "push", "boxes": [[frame, 0, 0, 63, 47] for frame in range(1, 13)]}],
            }
        },
        "splits": {"test1": ["bag"]},
    }
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    judged = ["--ground-truth", tmp_path / "truth.json"]
    report = tmp_path / "report"
    assert search(bag, *judged, "--report", report, "--json") == 0
    metrics = json.loads(capsys.readouterr().out.splitlines()[-1])["metrics"]
    assert json.loads((report / "metrics.json").read_text()) == metrics
    assert "Precision and recall" in (report / "report.html").read_text()
    predictions = report / "predictions.npz"
    assert metrics["per_class"]["push"]["boxes"] == 12
    assert set(np.load(predictions)["frames"][:, 2]) <= {1.0, 2.0, 3.0}
    words = ["eval", "--predictions", predictions, *judged, "--json"]
    assert main([*map(str, words)]) == 0
    again = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert again["errors@0.5"] == pytest.approx(metrics["errors@0.5"], abs=1e-3)
    assert again["video_mAP@0.2"] == pytest.approx(metrics["video_mAP@0.2"], abs=1e-3)

    assert search(bag, *judged, "--video", "bga") == 2
    assert "has no video 'bga'" in capsys.readouterr().err

    truth["videos"]["bag"]["frames"] = 11
    truth["videos"]["bag"]["tubes"][0]["boxes"].pop()
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    assert search(bag, *judged) == 2
    assert "12 images" in capsys.readouterr().err


def test_without_ros_it_says_what_to_do(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "amma_ros.bag_command", None)
    assert main(["bag", "recording"]) == 2
    assert "this needs ROS 2" in capsys.readouterr().err


# Reading -----------------------------------------------------------------------------------------------


def test_a_wrong_topic_is_answered_with_those_that_there_are(search, tmp_path, capsys):
    topics = {IMAGE: film(2), "/other/compressed": film(3, compressed), "/words": words(4)}
    bag = write_bag(tmp_path / "bag", topics)
    listed = f"{IMAGE} (2 images), /other/compressed (3 images)"
    for arguments, complaint in [
        ([], f"choose one with --topic: {listed}"),
        (["--topic", "/camera"], f"has no topic /camera; its image topics are {listed}"),
        (
            ["--topic", "/words"],
            f"/words in {bag} is of type std_msgs/msg/String; its image topics are {listed}",
        ),
    ]:
        assert search(bag, *arguments) == 2
        assert complaint in capsys.readouterr().err
    assert search(write_bag(tmp_path / "talk", {"/words": words(2)})) == 2
    assert "has no images; its topics are /words (std_msgs/msg/String)" in capsys.readouterr().err


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_what_is_no_bag_is_said_in_a_sentence(tmp_path, storage):
    empty = write_bag(tmp_path / "empty", {IMAGE: []}, storage)
    ending = storage_file(empty).suffix
    (tmp_path / f"zero{ending}").touch()
    (tmp_path / f"text{ending}").write_text("no bag\n" * 1000)
    (tmp_path / "old.bag").touch()
    (tmp_path / "folder").mkdir()
    for name, complaint in [
        ("empty", "holds no messages"),
        (f"zero{ending}", "cannot be read: "),
        (f"text{ending}", "cannot be read: "),
        ("old.bag", "ROS 1"),
        ("folder", "there is no .mcap or .db3 file in it"),
        ("nothing", "does not exist"),
    ]:
        with pytest.raises(AmmaError, match=complaint):
            BagReader(tmp_path / name)


@pytest.mark.parametrize(
    ("storage", "compression"),
    [("mcap", "none"), ("mcap", "storage"), ("mcap", "file"), ("sqlite3", "none"), ("sqlite3", "file")],
)
@pytest.mark.parametrize("share", [0.4, 0.7, 0.999])
def test_what_lies_before_the_cut_is_read(tmp_path, storage, compression, share):
    noise = np.random.default_rng(0).integers(0, 256, (60, 240, 320, 3), np.uint8)  # packs badly
    messages = []
    for picture, stamp in zip(noise, stamps(60), strict=True):
        header = image(0, stamp).header
        messages.append((stamp, conversions.bgr_to_image(picture, header)))
    bag = write_bag(tmp_path / "bag", {IMAGE: messages, "/words": words(60)}, storage, compression)
    whole, fault = raw(bag)
    assert len(whole) == 60
    assert not fault
    file = storage_file(bag)
    with file.open("r+b") as stream:
        stream.truncate(int(share * file.stat().st_size))
    for source in (bag, file):
        read, fault = raw(source)
        assert read == whole[: len(read)]
        assert len(read) >= 60 * share - 8
        assert str(file) in fault


@pytest.mark.parametrize(("storage", "compression"), [("mcap", "storage"), ("sqlite3", "none")])
def test_damage_in_the_middle_is_noticed(tmp_path, storage, compression):
    noise = np.random.default_rng(0).integers(0, 256, (20, 240, 320, 3), np.uint8)
    messages = [
        (stamp, conversions.bgr_to_image(picture, image(0, stamp).header))
        for picture, stamp in zip(noise, stamps(20), strict=True)
    ]
    bag = write_bag(tmp_path / "bag", {IMAGE: messages}, storage, compression)
    whole, _ = raw(bag)
    file = storage_file(bag)
    content = bytearray(file.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 300_000] = bytes(300_000)
    file.write_bytes(content)
    read, fault = raw(bag)
    assert 4 < len(read) < 20
    assert [message.time for message in read] == [message.time for message in whole[: len(read)]]
    assert f"{file} is damaged or cut off" in fault


@pytest.mark.parametrize(("compression", "ending"), [("none", ""), ("file", ".zstd")])
def test_a_bag_in_parts_is_read_in_order_with_and_without_its_metadata(tmp_path, compression, ending):
    bag = tmp_path / "bag"
    bag.mkdir()
    names = [f"bag_9.mcap{ending}", f"bag_10.mcap{ending}"]
    for number, name in enumerate(names):
        images = {IMAGE: film(10)[5 * number : 5 * number + 5]}
        part = write_bag(tmp_path / f"part{number}", images, compression=compression)
        shutil.move(storage_file(part), bag / name)
    times = [stamp + DELAY for stamp in stamps(10)]
    assert [message.time for message in raw(bag)[0]] == times
    listed = {"rosbag2_bagfile_information": {"relative_file_paths": names[::-1]}}
    (bag / "metadata.yaml").write_text(yaml.safe_dump(listed))
    assert [message.time for message in raw(bag)[0]] == times[5:] + times[:5]
    (bag / names[0]).unlink()
    read, fault = raw(bag)
    assert len(read) == 5
    assert names[0] in fault


def test_messages_that_are_still_in_the_log_of_the_database_are_not_forgotten(tmp_path):
    bag = write_bag(tmp_path / "bag", {IMAGE: film(3)}, "sqlite3")
    (bag / "bag.db3-wal").write_bytes(b"pages")
    read, fault = raw(bag)
    assert len(read) == 3
    assert "its newest messages are in bag.db3-wal" in fault


# Playing -----------------------------------------------------------------------------------------------


def play(graph, bag: Path, **parameters) -> BagPlayer:
    return graph.add(BagPlayer, bag=str(bag), **parameters)


def finish(graph, player: BagPlayer) -> None:
    graph.wait(player.done.done, "the end of the bag")
    player.done.result()


@pytest.mark.parametrize(("causal", "fps"), [(False, 25), (True, 25), (False, 60)])
def test_live_and_offline_say_the_same(graph, tiny_model, tmp_path, causal, fps):
    """Two cameras' worth of streams: a gap and another frame_id each end one. The model wants 30 fps."""
    late = [
        (time + 5 * SECOND, image(number, stamp + 5 * SECOND))
        for number, (time, stamp) in enumerate(zip([t for t, _ in film(7)], stamps(7), strict=True))
    ]
    other = [
        (time + 6 * SECOND, image(number, stamp + 6 * SECOND, "other"))
        for number, (time, stamp) in enumerate(zip([t for t, _ in film(6)], stamps(6), strict=True))
    ]
    bag = write_bag(tmp_path / "bag", {IMAGE: [*film(18, fps=fps), *late, *other]}, "sqlite3", "message")
    detections = graph.listen(Detection2DArray, "detections")
    tubes = graph.listen(ActionTubeArray, "action_tubes")
    labels = graph.listen(LabelInfo, "label_info", LATCHED)
    graph.add(LinkerNode, causal=causal, min_score=0.0)
    graph.add(
        DetectorNode,
        remap={"image": IMAGE},
        model=tiny_model,
        device="cpu",
        causal=causal,
        queue_depth=100,
        qos__image__reliability="reliable",
        qos__image__depth=100,
    )
    graph.wait(lambda: labels, "the nodes to know each other")
    player = play(graph, bag, pace="consumed", max_in_flight=16)
    finish(graph, player)
    graph.remove(player)
    graph.wait(lambda: len(detections) == 31 and tubes[-1].tubes[0].state == ActionTube.ENDED, "all answers")

    parameters = tmp_path / "parameters.yaml"
    values = {"min_score": 0.0, "causal": causal, "device": "cpu", "model": tiny_model}
    parameters.write_text(yaml.safe_dump({"/**": {"ros__parameters": values}}))
    output = tmp_path / "out.mcap"
    assert main(["bag", str(bag), "--params-file", str(parameters), "--output", str(output)]) == 0
    offline = contents(output)
    assert [message for _, message in offline["/detections"]] == detections
    # Only the clock knows when a stream ended that nothing came after.
    assert [message.tubes for _, message in offline["/action_tubes"]][:-1] == [m.tubes for m in tubes][:-1]
    assert {t.id for t in offline["/action_tubes"][-1][1].tubes} == {t.id for t in tubes[-1].tubes}
    assert offline["/label_info"][0][1].class_map == labels[-1].class_map
    assert sum(len(message.detections) for message in detections) > 31


def test_messages_pass_through_as_they_are(graph, tmp_path):
    bag = write_bag(tmp_path / "bag", {IMAGE: film(8), "/words": words(8)})
    images, talk, clock = [], [], graph.listen(Clock, "/clock")
    graph.observer.create_subscription(Image, IMAGE, images.append, 100, raw=True)
    graph.observer.create_subscription(String, "/words", talk.append, 100, raw=True)
    finish(graph, play(graph, bag, rate=2.0, clock=50.0, wait_for_subscribers=1))
    graph.wait(lambda: len(images) == 8, "all images")
    sent = {topic: [m.data for m in raw(bag, [topic])[0]] for topic in (IMAGE, "/words")}
    assert images == sent[IMAGE]
    assert talk == sent["/words"][8 - len(talk) :]  # nobody waits for those who listen to words
    times = [conversions.to_nanoseconds(message.clock) for message in clock]
    assert times == sorted(times)
    assert times[-1] == stamps(8)[-1] + DELAY


@pytest.mark.parametrize("pace", ["realtime", "consumed"])
def test_the_clock_is_told_as_often_as_asked_for_however_many_messages_there_are(graph, tmp_path, pace):
    bag = write_bag(tmp_path / "bag", {IMAGE: film(40, fps=100)})
    clock = graph.listen(Clock, "/clock")
    answers = graph.observer.create_publisher(Detection2DArray, "detections", 100)
    graph.observer.create_subscription(
        Image, IMAGE, lambda image: answers.publish(Detection2DArray(header=image.header)), 100
    )
    finish(graph, play(graph, bag, clock=10.0, pace=pace, wait_for_subscribers=1))
    end = stamps(40, 100)[-1] + DELAY
    graph.wait(lambda: clock and conversions.to_nanoseconds(clock[-1].clock) == end, "the last time")
    assert 4 <= len(clock) <= 6


def test_a_recorded_clock_gives_way_to_the_players_own(graph, tmp_path):
    lines = graph.listen(Log, "/rosout", 1000)
    recorded = [(stamp, Clock(clock=conversions.to_stamp(100 * SECOND))) for stamp in stamps(8)]
    bag = write_bag(tmp_path / "bag", {IMAGE: film(8), "/clock": recorded})
    clock, images = graph.listen(Clock, "/clock"), graph.listen(Image, IMAGE)

    def told() -> set[int]:
        return {message.clock.sec for message in clock}

    finish(graph, play(graph, bag, rate=10.0, clock=100.0, wait_for_subscribers=1))
    graph.wait(lambda: len(images) == 8, "all images")
    graph.wait(lambda: any("/clock is left out" in line.msg for line in lines), "a line in the log")
    assert told() == {START // SECOND}
    clock.clear()
    finish(graph, play(graph, bag, rate=10.0, wait_for_subscribers=1))
    graph.wait(lambda: told() == {100}, "the recorded clock")
    with pytest.raises(AmmaError, match="topics names /clock: set clock to 0, or leave the topic out"):
        play(graph, bag, clock=100.0, topics=[IMAGE, "/clock"])


def test_images_that_nobody_wants_do_not_hold_a_recording_up(graph, tmp_path):
    bag = write_bag(tmp_path / "bag", {IMAGE: film(8), "/depth": film(8)})
    images = graph.listen(Image, IMAGE)
    finish(graph, play(graph, bag, rate=10.0, wait_for_subscribers=1))
    graph.wait(lambda: len(images) == 8, "all images")


def test_topics_that_are_named_are_waited_for(graph, tmp_path, monkeypatch):
    monkeypatch.setattr(pacing, "PATIENCE", 0.2)
    lines = graph.listen(Log, "/rosout", 1000)
    bag = write_bag(tmp_path / "bag", {IMAGE: film(3), "/depth": film(3)})
    images = graph.listen(Image, IMAGE)
    player = play(graph, bag, rate=10.0, wait_for_subscribers=1, topics=[IMAGE, "/depth"])
    said = "waiting for 1 subscriber of /depth (parameter wait_for_subscribers)"
    graph.wait(lambda: any(said in line.msg for line in lines), "a complaint")
    assert images == []
    depths = graph.listen(Image, "/depth")
    finish(graph, player)
    graph.wait(lambda: len(images) == len(depths) == 3, "all images")


def test_a_bag_is_played_again_and_again(graph, tmp_path):
    bag = write_bag(tmp_path / "bag", {IMAGE: film(3)})
    images = graph.listen(Image, IMAGE)
    player = play(graph, bag, rate=10.0, loop=True, wait_for_subscribers=1)
    graph.wait(lambda: len(images) >= 7, "a third round")
    graph.remove(player)
    seen = [conversions.to_nanoseconds(message.header.stamp) for message in images[:7]]
    assert seen == (stamps(3) * 3)[:7]


def test_topics_of_unknown_types_are_left_out_unless_asked_for(graph, tmp_path):
    types = get_typestore(Stores.ROS2_JAZZY)
    types.register(get_types_from_msg("uint8 number", "no_such_msgs/msg/Thing"))
    with Writer(tmp_path / "bag", version=9) as writer:
        for topic, kind in (("/thing", "no_such_msgs/msg/Thing"), ("/words", "std_msgs/msg/String")):
            connection = writer.add_connection(topic, kind, typestore=types)
            writer.write(connection, START, serialize_message(String(data="a")))
    heard = graph.listen(String, "/words")
    finish(graph, play(graph, tmp_path / "bag", wait_for_subscribers=1))
    graph.wait(lambda: heard == [String(data="a")], "the word")
    with pytest.raises(AmmaError, match="install the package no_such_msgs"):
        play(graph, tmp_path / "bag", topics=["/thing"])


def test_the_player_says_what_it_cannot_play(graph, tmp_path):
    bag = write_bag(tmp_path / "bag", {IMAGE: film(9), "/words": words(3)})
    for parameters, complaint in [
        ({"topics": ["/no"]}, f"has no topic /no; it has {IMAGE}, /words"),
        ({"topics": ["/words"], "pace": "consumed"}, "one topic of images must be played"),
    ]:
        with pytest.raises(AmmaError, match=complaint):
            play(graph, bag, **parameters)
    with pytest.raises(AmmaError, match="does not exist"):
        play(graph, tmp_path / "nothing")
    file = storage_file(bag)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(AmmaError, match=r"cut off: .* messages lie before that and were played"):
        finish(graph, play(graph, bag, rate=100.0))


def test_serialised_images_are_as_ros_makes_them(tmp_path):
    """What the tests write is what a recorder would have written."""
    bag = write_bag(tmp_path / "bag", {IMAGE: film(1)})
    ((_, _, data),), _ = raw(bag)
    assert deserialize_message(data, Image) == film(1)[0][1]
    assert len(data) == len(serialize_message(film(1)[0][1]))
