"""Warnings about topics that are there and do not reach each other."""

from collections.abc import Callable

from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
from rclpy.node import Node
from rclpy.qos import QoSPolicyKind, QoSProfile
from rclpy.topic_endpoint_info import TopicEndpointInfo

POLICIES = {QoSPolicyKind.RELIABILITY: "reliability", QoSPolicyKind.DURABILITY: "durability"}


def subscriber_events(
    node: Node, topic: str, name: str, qos: QoSProfile, matched: Callable | None = None
) -> SubscriptionEventCallbacks:
    """For a subscription of `topic` with parameters ``qos.<name>.*``: say if publishers do not suit it."""

    def warn(event) -> None:
        path = node.resolve_topic_name(topic)
        mine = _actual(node, node.get_subscriptions_info_by_topic(path), qos)
        others = node.get_publishers_info_by_topic(path)
        _warn(node, path, name, mine, event.last_policy_kind, others, "offers", "this node asks for")

    return SubscriptionEventCallbacks(incompatible_qos=warn, matched=matched)


def publisher_events(
    node: Node, topic: str, name: str, qos: QoSProfile, matched: Callable | None = None
) -> PublisherEventCallbacks:
    """The same for a publisher and those who subscribe."""

    def warn(event) -> None:
        path = node.resolve_topic_name(topic)
        mine = _actual(node, node.get_publishers_info_by_topic(path), qos)
        others = node.get_subscriptions_info_by_topic(path)
        _warn(node, path, name, mine, event.last_policy_kind, others, "asks for", "this node offers")

    return PublisherEventCallbacks(incompatible_qos=warn, matched=matched)


def _actual(node: Node, infos: list[TopicEndpointInfo], asked: QoSProfile) -> QoSProfile:
    """What became of the profile that the node asked for: best_available turns into what suited then."""
    path = node.get_name(), node.get_namespace()
    profiles = [info.qos_profile for info in infos if (info.node_name, info.node_namespace) == path]
    return profiles[0] if profiles else asked


def _warn(node, path, name, qos, policy, others, theirs: str, ours: str) -> None:
    word = POLICIES.get(policy, "")
    wanted = getattr(qos, word, None)
    unfit = [other for other in others if word and getattr(other.qos_profile, word) != wanted]
    who = ", ".join(
        f"node '{other.node_name}' {theirs} {word} {getattr(other.qos_profile, word).name.lower()}"
        for other in unfit
    )
    told = {parameter for parameter in (f"qos.{name}.{word}",) if node.has_parameter(parameter)}
    cure = f"change the parameter {told.pop()}" if told else "change the other side"
    node.get_logger().warning(
        f"no messages pass on {path}: "
        f"{who or 'another node has other quality of service'}, "
        f"{ours} {word} {wanted.name.lower() if wanted is not None else 'another'}; {cure}"
    )
