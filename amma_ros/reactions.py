"""What is done when an event begins or ends: a message, a service call, an action goal, parameters set.

Nothing here waits. What cannot be done, is refused or gets no answer is logged and counted.
"""

import difflib
import math
import time
from collections import Counter

from action_msgs.msg import GoalStatus
from rcl_interfaces.srv import SetParameters
from rclpy.action import ActionClient
from rclpy.exceptions import NameValidationException
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.serialization import serialize_message
from rclpy.task import Future

from amma_core.errors import AmmaError
from amma_ros.from_yaml import fill, interface

PATIENCE = 5.0
"""Seconds to wait for the answer to a call."""
CANCEL = "cancel"


def make(node: Node, entry: dict) -> "Reaction":
    """The reaction that an entry of a rule's ``do`` describes; raises AmmaError where it describes none."""
    kinds = [kind for kind in KINDS if kind in entry]
    if len(kinds) != 1:
        raise AmmaError(f"a reaction must have exactly one of {', '.join(KINDS)}, and this has {list(entry)}")
    return KINDS[kinds[0]](node, kinds[0], entry)


class Reaction:
    """Something to do when an event begins, when it ends, or both. A child says how."""

    fields: tuple[str, ...] = ("type", "begin", "end")

    def __init__(self, node: Node, kind: str, entry: dict):
        self.counts: Counter[str] = Counter()
        """``done``, ``failed``"""
        self._node = node
        self._target = entry[kind]
        self.name = f"{kind} {self._target}"
        self._waiting: dict[Future, float] = {}
        try:
            if not isinstance(self._target, str) or not self._target:
                raise AmmaError(f"{kind} is {self._target!r}, but must be a name")
            strange = next((key for key in entry if key not in (kind, *self.fields)), None)
            if strange is not None:
                near = difflib.get_close_matches(str(strange), self.fields, n=1)
                hint = f"did you mean '{near[0]}'?" if near else f"it has {', '.join(self.fields)}"
                raise AmmaError(f"there is no field '{strange}'; {hint}")
            if not {"begin", "end"} & set(entry):
                raise AmmaError("it has neither begin nor end: say when, and with which values")
            self._open(entry)
            self._content = {
                begins: self._compose({} if entry[word] is None else entry[word])
                for begins, word in ((True, "begin"), (False, "end"))
                if word in entry
            }
        except (
            AmmaError,
            rclpy_implementation.RCLError,
        ) as error:  # the latter: of that name with another type
            self.close()
            raise AmmaError(f"{self.name}: {str(error).splitlines()[0]}") from None
        except (NameValidationException, ValueError):
            self.close()
            raise AmmaError(
                f"{self.name}: the name '{self._target}' is not valid in ROS; it may have letters, digits, "
                "underscores and slashes"
            ) from None

    def perform(self, begins: bool) -> None:
        if begins in self._content:
            self._send(self._content[begins])

    def expire(self, now: float) -> None:
        """Give up what has waited too long for an answer; now: seconds of the monotonic clock."""
        for future, deadline in list(self._waiting.items()):
            if now > deadline:
                self._give_up(future)

    def _give_up(self, future: Future) -> None:
        future.cancel()

    def _open(self, entry: dict) -> None:
        """Make the client or publisher."""
        raise NotImplementedError

    def _compose(self, values: object):
        """What is to be sent."""
        raise NotImplementedError

    def _send(self, content) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """Give back what `_open` took. Called also when it took nothing."""
        raise NotImplementedError

    def _await(self, future: Future, then) -> None:
        """Call then(answer) when the answer is there; count it as failed if it does not come."""
        self._waiting[future] = time.monotonic() + PATIENCE

        def finish(future: Future) -> None:
            if self._waiting.pop(future, None) is None:
                return  # given up and counted long ago
            if future.cancelled():
                self._failed(f"gave no answer within {PATIENCE:g} seconds")
            elif future.exception() is not None:
                self._failed(f"failed: {future.exception()}")
            else:
                then(future.result())

        future.add_done_callback(finish)

    def _done(self) -> None:
        self.counts["done"] += 1

    def _failed(self, reason: str) -> None:
        self.counts["failed"] += 1
        self._node.get_logger().warning(f"{self.name} {reason}")


class Topic(Reaction):
    """Publishes a message. It counts as failed where nobody subscribes."""

    _publisher = None

    def _open(self, entry: dict) -> None:
        self._type = interface(entry.get("type"), "msg")
        self._publisher = self._node.create_publisher(self._type, self._target, 10)

    def _compose(self, values: object):
        return fill(self._type(), values)

    def _send(self, content) -> None:
        self._publisher.publish(content)
        if self._publisher.get_subscription_count():
            self._done()
        else:
            self._failed("was published, but nobody heard it: start a subscriber, or correct the name")

    def close(self) -> None:
        if self._publisher is not None:
            self._node.destroy_publisher(self._publisher)


class Service(Reaction):
    """Calls a service. An answer with ``success: false`` counts as failed."""

    _client = None

    def _open(self, entry: dict) -> None:
        self._type = interface(entry.get("type", "std_srvs/srv/Trigger"), "srv")
        self._client = self._node.create_client(self._type, self._target)

    def _compose(self, values: object):
        return fill(self._type.Request(), values)

    def _send(self, content) -> None:
        if not self._client.service_is_ready():
            self._failed("is not available: start its server, or correct the name; the call is left out")
            return
        self._await(self._client.call_async(content), self._on_answer)

    def _on_answer(self, answer) -> None:
        if getattr(answer, "success", True):
            self._done()
        else:
            self._failed(f"was refused: {getattr(answer, 'message', '')}")

    def close(self) -> None:
        if self._client is not None:
            self._node.destroy_client(self._client)


class Goal(Reaction):
    """Sends a goal to an action server, or cancels the one sent last."""

    _client = None

    def _open(self, entry: dict) -> None:
        self._type = interface(entry.get("type"), "action")
        self._client = ActionClient(self._node, self._type, self._target)
        self._newest = 0
        self._sending: Future | None = None
        self._running = None
        self._cancel_wanted = False

    def _compose(self, values: object):
        return CANCEL if values == CANCEL else fill(self._type.Goal(), values)

    def _send(self, content) -> None:
        if content == CANCEL:
            self._cancel_wanted = True
            self._cancel()
            return
        self._running, self._cancel_wanted = None, False
        self._newest += 1
        if not self._client.server_is_ready():
            self._failed("is not available: start its server, or correct the name; the goal is left out")
            return
        number = self._newest
        if self._waiting.get(self._sending) == math.inf:  # a newer one takes its place
            self._waiting.pop(self._sending)
            self._sending.cancel()
        self._sending = self._client.send_goal_async(content)
        self._await(self._sending, lambda handle: self._on_sent(handle, number))

    def _give_up(self, future: Future) -> None:
        """A server may take a goal late, and it must be possible to cancel that one, too."""
        if future is not self._sending:
            super()._give_up(future)
            return
        self._waiting[future] = math.inf
        self._failed(f"gave no answer within {PATIENCE:g} seconds; it may still take the goal")

    def _on_sent(self, handle, number: int) -> None:
        if not handle.accepted:
            self._failed("rejected the goal")
            return
        self._done()
        handle.get_result_async().add_done_callback(lambda future: self._on_result(future, number))
        if number == self._newest:
            self._running = handle
            self._cancel()

    def _cancel(self) -> None:
        """If it is wanted and there is something to cancel; a goal on its way is, once it is accepted."""
        if self._cancel_wanted and self._running is not None:
            self._await(self._running.cancel_goal_async(), self._on_cancelled)
            self._running = None

    def _on_cancelled(self, answer) -> None:
        if answer.goals_canceling:
            self._done()
        else:
            self._failed("refused to cancel the goal")

    def _on_result(self, future: Future, number: int) -> None:
        if number == self._newest:
            self._running = None
        if future.exception() is None and future.result().status == GoalStatus.STATUS_ABORTED:
            self._failed("gave the goal up")

    def close(self) -> None:
        if self._client is not None:
            self._client.destroy()


class Parameters(Service):
    """Sets parameters of another node."""

    fields = ("begin", "end")

    def _open(self, entry: dict) -> None:
        self._client = self._node.create_client(SetParameters, f"{self._target}/set_parameters")

    def _compose(self, values: object):
        if not isinstance(values, dict) or not values:
            raise AmmaError(f"the values are {values!r}, but must be a mapping of parameters to values")
        request = SetParameters.Request()
        for name, value in values.items():
            try:
                if value is None or value == []:  # the first would delete it, the second has no type
                    raise TypeError
                parameter = Parameter(str(name), value=value).to_parameter_msg()
                serialize_message(parameter)
            except Exception:  # rclpy has several for what it can't send
                raise AmmaError(
                    f"the value of {name} is {value!r}, but must be a bool, a number of 64 bits, a string, "
                    "or a list of one of these"
                ) from None
            request.parameters.append(parameter)
        return request

    def _on_answer(self, answer) -> None:
        refused = [result.reason for result in answer.results if not result.successful]
        if refused:
            self._failed(f"was refused: {'; '.join(refused)}")
        else:
            self._done()


KINDS = {"topic": Topic, "service": Service, "action": Goal, "parameters": Parameters}
