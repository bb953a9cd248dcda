from pathlib import Path

import pytest
from rcl_interfaces.srv import SetParameters
from rclpy.exceptions import ParameterNotDeclaredException
from rclpy.parameter import Parameter
from vision_msgs.msg import LabelInfo

from amma_core.errors import AmmaError
from amma_ros import parameters
from amma_ros.detector_node import DetectorNode
from amma_ros.linker_node import LinkerNode
from amma_ros.node import LATCHED
from amma_ros.video_publisher import VideoPublisher
from amma_ros.visualizer_node import VisualizerNode

ROOT = Path(__file__).resolve().parents[2]
NODES = {
    "detector": (DetectorNode, {"autostart": False}),
    "linker": (LinkerNode, {}),
    "visualizer": (VisualizerNode, {}),
}


def change(graph, node: str, **values) -> list:
    """Set parameters as `ros2 param set` does; returns the results."""
    new = [Parameter(name, value=value).to_parameter_msg() for name, value in values.items()]
    request = SetParameters.Request(parameters=new)
    return graph.call(SetParameters, f"{graph.namespace}/{node}/set_parameters", request).results


def test_the_documentation_is_up_to_date():
    page = (ROOT / "docs" / "parameters.md").read_text()
    assert page == parameters.markdown(), "run `python -m amma_ros.parameters > docs/parameters.md`"


@pytest.mark.parametrize("table", parameters.NODES.values(), ids=parameters.NODES)
def test_every_parameter_is_described_and_has_a_good_default(table):
    for parameter in table:
        assert parameter.description.endswith("."), parameter.name
        assert not parameter.fault(parameter.default)
        if parameter.type in ("integer", "double"):
            assert parameter.low is not None, f"{parameter.name} has no range"


def test_a_name_means_the_same_in_every_node():
    first: dict[str, parameters.Parameter] = {}
    for table in parameters.NODES.values():
        for parameter in table:
            other = first.setdefault(parameter.name, parameter)
            assert (parameter.type, parameter.limits) == (other.type, other.limits)


def test_the_shipped_file_names_only_parameters_that_exist():
    import yaml

    def names(values: dict, prefix: str = ""):
        for name, value in values.items():
            yield from names(value, f"{prefix}{name}.") if isinstance(value, dict) else [prefix + name]

    file = yaml.safe_load((ROOT / "config" / "amma.yaml").read_text())
    assert not parameters.unknown(list(names(file["/**"]["ros__parameters"])))


@pytest.mark.parametrize("name", NODES)
def test_nodes_declare_what_the_table_says(graph, name):
    make, given = NODES[name]
    node = graph.add(make, **given)
    for parameter in parameters.NODES[name]:
        descriptor = node.describe_parameter(parameter.name)
        assert descriptor.description == parameter.description
        assert descriptor.read_only == (parameter.change == parameters.NEVER)
        for limits in [*descriptor.integer_range, *descriptor.floating_point_range]:
            assert (limits.from_value, limits.to_value) == (parameter.low, parameter.high)
        if parameter.name not in given:
            assert node.get_parameter(parameter.name).value == parameter.default


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("nms_iou", 1.5, "linker: nms_iou is 1.5, but must be from 0.0 to 1.0"),
        ("nms_iou", "high", "linker: nms_iou is 'high', but must be a double"),
        ("top_per_class", 0, "linker: top_per_class is 0, but must be from 1 to 1000"),
        ("causal", 1, "linker: causal is 1, but must be a bool"),
        ("qos.detections.reliability", "maybe", "must be one of best_effort, reliable, best_available"),
        ("nms_iuo", 0.5, "linker: there is no parameter 'nms_iuo'; did you mean 'nms_iou'?"),
        ("colour", "red", "linker: there is no parameter 'colour'; docs/parameters.md lists all"),
    ],
)
def test_a_bad_value_at_start_is_one_sentence(graph, name, value, says):
    with pytest.raises(AmmaError) as caught:
        graph.add(LinkerNode, **{name: value})
    assert says in str(caught.value)


def test_a_whole_number_will_do_for_a_double_and_other_nodes_parameters_do_no_harm(graph):
    node = graph.add(LinkerNode, nms_iou=1, model="somewhere", trail=3)
    assert node.get_parameter("nms_iou").value == 1.0
    (result,) = change(graph, "linker", min_score=1)
    assert result.successful
    assert node.get_parameter("min_score").value == 1.0


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("min_score", 2.0, "min_score out of range"),
        ("min_score", "much", "Wrong parameter type"),
        ("classes", 5, "Wrong parameter type"),
        ("class_min_scores", True, "Wrong parameter type"),
        ("link_iou", 0.3, "link_iou may change while inactive only; first run `ros2 lifecycle set /"),
        ("autostart", False, "read-only"),
    ],
)
def test_a_refused_change_says_why(graph, name, value, says):
    graph.add(LinkerNode)
    (result,) = change(graph, "linker", **{name: value})
    assert not result.successful
    assert says in result.reason


def test_limits_hold_again_where_a_change_by_the_node_itself_fails(graph):
    node = graph.add(LinkerNode)
    with pytest.raises(ParameterNotDeclaredException):
        node.settings.force("no_such_parameter", 1)
    (result,) = change(graph, "linker", link_iou=0.3)
    assert "while inactive only" in result.reason


@pytest.mark.parametrize(
    ("cameras", "says"),
    [
        (["front", "rear view"], "'rear view', which cannot be part"),
        (["1st"], "'1st'"),
        (["a", "a"], "'a' twice"),
    ],
)
@pytest.mark.parametrize("make", [DetectorNode, LinkerNode])
def test_cameras_must_have_names_that_topics_can_have(graph, tiny_model, make, cameras, says):
    with pytest.raises(AmmaError, match=says):
        graph.add(make, cameras=cameras, model=tiny_model)


@pytest.mark.parametrize(("make", "node"), [(DetectorNode, "detector"), (LinkerNode, "linker")])
def test_bad_names_of_cameras_are_refused_before_the_next_activation(graph, tiny_model, make, node):
    graph.add(make, autostart=False, model=tiny_model)
    (result,) = change(graph, node, cameras=["1st"])
    assert not result.successful
    assert "'1st', which cannot be part" in result.reason


@pytest.mark.parametrize("entries", [["fall"], ["fall=2"], ["=0.5"], ["fall=much"]])
def test_class_scores_must_be_of_their_form(graph, entries):
    with pytest.raises(AmmaError, match="must hold entries like fall="):
        graph.add(LinkerNode, class_min_scores=entries)


def test_a_class_that_the_model_does_not_know_is_refused(graph, tiny_model):
    linker = graph.add(LinkerNode)
    assert change(graph, "linker", classes=["nod"])[0].successful, "no model has said what it knows"
    assert change(graph, "linker", classes=[])[0].successful
    graph.add(DetectorNode, model=tiny_model)
    infos = graph.listen(LabelInfo, "label_info", LATCHED)
    graph.wait(lambda: infos, "the labels")
    for values in ({"classes": ["fall", "nod"]}, {"class_min_scores": ["nod=0.5"]}):
        (result,) = change(graph, "linker", **values)
        assert result.reason == "there is no class 'nod'; the model knows fall, push, wave"
    assert linker.get_parameter("classes").value == []


def test_a_caption_with_unknown_fields_is_refused(graph):
    graph.add(VisualizerNode)
    (result,) = change(graph, "visualizer", caption="{name}")
    assert result.reason == "caption is '{name}', but its fields must be of {label}, {score} and {tube}"
    assert change(graph, "visualizer", caption="{label} {score:.0%}")[0].successful


@pytest.mark.parametrize(
    ("source", "says"), [("", "source is empty"), ("/nowhere.mp4", "/nowhere.mp4 does not exist")]
)
def test_a_publisher_without_a_video_says_so(graph, source, says):
    with pytest.raises(AmmaError, match=says):
        graph.add(VideoPublisher, source=source)
