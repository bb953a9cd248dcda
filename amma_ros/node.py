"""What the nodes have in common: parameters by the table, quality of service, lifecycle, start and end."""

import gc
import re
import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.node import Node
from rclpy.parameter import Parameter as RosParameter
from rclpy.qos import QoSDurabilityPolicy, QoSProfile, QoSReliabilityPolicy
from rclpy.task import Future
from std_msgs.msg import Header

from amma_core.errors import AmmaError
from amma_ros import parameters
from amma_ros.parameters import ALWAYS, INACTIVE, NEVER, Parameter, Value
from amma_ros.transports import use_transports_for_images

LATCHED = QoSProfile(
    depth=1, reliability=QoSReliabilityPolicy.RELIABLE, durability=QoSDurabilityPolicy.TRANSIENT_LOCAL
)
"""For topics whose newest message holds until the next one."""


class Settings:
    """A node's parameters: declared, checked and refused as the table says.

    `check` is called with the new values before a change and refuses it with an AmmaError; `apply` is called
    after it. Raises AmmaError where the parameters given at start are not what the table wants.
    """

    def __init__(
        self,
        node: Node,
        table: Sequence[Parameter],
        *,
        active: Callable[[], bool] = lambda: False,
        check: Callable[[dict[str, Value]], None] = lambda values: None,
        apply: Callable[[dict[str, Value]], None] = lambda values: None,
    ):
        self._node = node
        self._table = {parameter.name: parameter for parameter in table}
        self._active, self._check, self._apply = active, check, apply
        self._forced = False
        # rclpy has no other way to ask what was given on the command line and in files.
        overrides = node._parameter_overrides
        fault = parameters.unknown([name for name in overrides if not _is_of_rclpy(name)])
        if fault:
            raise AmmaError(f"{node.get_name()}: {fault}")
        for parameter in table:
            if parameter.name in overrides:
                overrides[parameter.name] = self._fit(overrides[parameter.name])
            self._declare(parameter)
        node.add_pre_set_parameters_callback(lambda new: [self._fit(parameter) for parameter in new])
        node.add_on_set_parameters_callback(self._judge)
        node.add_post_set_parameters_callback(lambda new: self._apply({p.name: p.value for p in new}))

    def __getitem__(self, name: str) -> Value:
        return self._node.get_parameter(name).value

    def force(self, name: str, value: Value) -> None:
        """Set a parameter whatever its limits."""
        self._forced = True
        try:
            self._node.set_parameters([RosParameter(name, value=value)])
        finally:
            self._forced = False

    def fixed_while_active(self) -> dict[str, Value]:
        return {name: self[name] for name, p in self._table.items() if p.change == INACTIVE}

    def qos(self, topic: str) -> QoSProfile:
        """The profile of a topic by its parameters ``qos.<topic>.*``; reliable where they do not say."""
        policies = {}
        for name, policy in (("reliability", QoSReliabilityPolicy), ("durability", QoSDurabilityPolicy)):
            if f"qos.{topic}.{name}" in self._table:
                policies[name] = policy[self[f"qos.{topic}.{name}"].upper()]
        return QoSProfile(depth=self[f"qos.{topic}.depth"], **policies)

    def _declare(self, parameter: Parameter) -> None:
        descriptor = ParameterDescriptor(
            description=parameter.description,
            additional_constraints=parameter.limits if parameter.choices else "",
            read_only=parameter.change == NEVER,
        )
        if parameter.type == "integer" and parameter.low is not None:
            descriptor.integer_range = [IntegerRange(from_value=parameter.low, to_value=parameter.high)]
        if parameter.type == "double" and parameter.low is not None:
            descriptor.floating_point_range = [
                FloatingPointRange(from_value=parameter.low, to_value=parameter.high)
            ]
        where = self._node.get_name()
        try:
            value = self._node.declare_parameter(parameter.name, parameter.default, descriptor).value
        except InvalidParameterTypeException:
            given = self._node._parameter_overrides[parameter.name].value
            raise AmmaError(
                f"{where}: {parameter.name} is {given!r}, but must be a {parameter.type}"
            ) from None
        except InvalidParameterValueException:
            given = self._node._parameter_overrides[parameter.name].value
            raise AmmaError(f"{where}: {parameter.fault(given)}") from None
        fault = parameter.fault(value)
        if fault:
            raise AmmaError(f"{where}: {fault}")

    def _fit(self, given: RosParameter) -> RosParameter:
        """Forgive what people write: 1 for 1.0, and [] for an empty list of any type."""
        declared = self._table.get(given.name)
        if declared is None:
            return given
        if declared.type == "double" and given.type_ == RosParameter.Type.INTEGER:
            return RosParameter(given.name, RosParameter.Type.DOUBLE, float(given.value))
        if declared.type == "string_array" and hasattr(given.value, "__len__") and len(given.value) == 0:
            return RosParameter(given.name, RosParameter.Type.STRING_ARRAY, [])
        return given

    def _judge(self, new: list[RosParameter]) -> SetParametersResult:
        if self._forced:
            return SetParametersResult(successful=True)
        values = {parameter.name: parameter.value for parameter in new}
        try:
            for name, value in values.items():
                if name not in self._table:
                    continue
                parameter = self._table[name]
                fault = parameter.fault(value)
                if fault:
                    raise AmmaError(fault)
                if parameter.change != ALWAYS and self._active():
                    path = self._node.get_fully_qualified_name()
                    raise AmmaError(
                        f"{name} may change {parameter.change} only; "
                        f"first run `ros2 lifecycle set {path} deactivate`"
                    )
            self._check(values)
        except AmmaError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)


def _is_of_rclpy(name: str) -> bool:
    return name in ("use_sim_time", "start_type_description_service") or name.startswith("qos_overrides.")


def camera_names(settings: Mapping[str, Value]) -> list[str]:
    """The parameter ``cameras``; one camera without a name if it is empty. Raises AmmaError for bad names."""
    names = [name for name in settings["cameras"] if name]
    for name in names:
        if not re.fullmatch(r"[A-Za-z]\w*(/[A-Za-z]\w*)*", name, re.ASCII) or "__" in name:
            raise AmmaError(f"cameras has the name '{name}', which cannot be part of a topic's name")
        if names.count(name) > 1:
            raise AmmaError(f"cameras has the name '{name}' twice")
    return names or [""]


class ManagedNode(LifecycleNode):
    """A node with a lifecycle. A child says what to do in `open`, `start`, `stop` and `close`.

    An AmmaError in one of the first two leaves the node where it was, and is logged as one sentence. What
    goes wrong while the node starts by itself, by the parameter ``autostart``, comes out of the constructor.
    """

    def __init__(self, name: str, table: Sequence[Parameter], **options):
        super().__init__(name, **options)
        self.active = False
        self._starting = False
        self._failure: Exception | None = None
        self._opened_with: dict[str, Value] = {}
        self.settings = Settings(self, table, active=lambda: self.active, check=self.check, apply=self.apply)
        self.prepare()
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        # By the wall clock: what is wrong shall be seen even where a simulator's clock stands still.
        self.create_timer(
            self.settings["diagnostics_period"], self._report, clock=Clock(clock_type=ClockType.STEADY_TIME)
        )
        # rclpy lets the error of a request out of turn end the node.
        self._answer_request = self._service_change_state.callback
        self._service_change_state.callback = self._on_request
        if self.settings["autostart"]:
            self._autostart()

    def prepare(self) -> None:
        """Called once, when the parameters are there."""

    def open(self) -> None:
        """Configure: load what takes long, offer topics."""

    def start(self) -> None:
        """Activate: subscribe."""

    def stop(self) -> None:
        """Deactivate: unsubscribe. Called also when nothing was started."""

    def close(self) -> None:
        """Clean up: give back all that `open` took. Called also when nothing was opened."""

    def reopen(self) -> None:
        """Take over parameters that changed while the node was inactive."""
        self.close()
        self._open()

    def check(self, values: dict[str, Value]) -> None:
        """Refuse a change of parameters with an AmmaError."""

    def apply(self, values: dict[str, Value]) -> None:
        """Take over changed parameters."""

    def diagnose(self) -> list[DiagnosticStatus]:
        """How it goes, for /diagnostics."""
        return []

    def note(self, name: str, value: Value) -> None:
        """Set a parameter to what already holds, though the node is active."""
        self.settings.force(name, value)
        self._opened_with[name] = value

    def destroy_node(self) -> None:
        self._stop()
        self.close()
        super().destroy_node()

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._attempt(self._open, undo=self.close)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._attempt(self._start, undo=self._stop)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._attempt(self._stop)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._attempt(self.close)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._attempt(lambda: (self._stop(), self.close()))

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._attempt(lambda: (self._stop(), self.close()))

    def _autostart(self) -> None:
        self._starting = True
        for trigger in (self.trigger_configure, self.trigger_activate):
            trigger()
            if self._failure is not None:
                raise self._failure
        self._starting = False

    def _on_request(
        self, request: ChangeState.Request, response: ChangeState.Response
    ) -> ChangeState.Response:
        """A transition is wanted. One that is not possible now is refused, and the log says so."""
        possible = {number: label for number, label, *_ in self._state_machine.available_transitions}
        label = request.transition.label
        if (label in possible.values()) if label else (request.transition.id in possible):
            return self._answer_request(request, response)
        hint = "; where another node manages it, set autostart to false" if self.settings["autostart"] else ""
        self.get_logger().warning(
            f"the transition {label or request.transition.id} is not possible while the node is "
            f"{self._state_machine.current_state[1]}, only {', '.join(possible.values())}{hint}"
        )
        response.success = False
        return response

    def _report(self) -> None:
        found = self.diagnose()
        state = KeyValue(key="state", value=self._state_machine.current_state[1])
        for each in found:
            each.values.append(state)
        now = self.get_clock().now().to_msg()
        self._diagnostics.publish(DiagnosticArray(header=Header(stamp=now), status=found))

    def _open(self) -> None:
        self._opened_with = {}  # so that the next activation tries again, if this fails
        self.open()
        self._opened_with = self.settings.fixed_while_active()

    def _start(self) -> None:
        if self._opened_with != self.settings.fixed_while_active():
            self.reopen()
        self.start()
        self.active = True

    def _stop(self) -> None:
        self.active = False
        self.stop()

    def _attempt(
        self, action: Callable[[], object], undo: Callable[[], None] = lambda: None
    ) -> TransitionCallbackReturn:
        try:
            action()
            return TransitionCallbackReturn.SUCCESS
        except AmmaError as error:
            self._failure = self._failure or error  # what follows from it is no reason
            if not self._starting:
                self.get_logger().error(str(error))
            undo()
            return TransitionCallbackReturn.FAILURE
        except Exception as error:
            self._failure = self._failure or error
            # rclpy would take the error and say nothing; so do we when the process is ending
            if self.context.ok() and not self._starting:
                self.get_logger().error(traceback.format_exc())
            return TransitionCallbackReturn.ERROR


def run(make_node: Callable[[], Node], arguments: list[str] | None = None) -> int:
    """A node's whole life as a process; returns the exit status. A mistake of the user's is one sentence.

    A node that ends by itself has a future ``done``.
    """
    use_transports_for_images()
    try:
        rclpy.init(args=arguments)
    except Exception as error:
        print(f"amma_ros: {_sentence(error)}", file=sys.stderr)
        return 2
    node = None
    executor = SingleThreadedExecutor()
    try:
        node = make_node()
        executor.add_node(node)
        done = getattr(node, "done", None) or Future()
        executor.spin_until_future_complete(done)
        if done.done():
            done.result()
    except AmmaError as error:
        rclpy.logging.get_logger("amma_ros").fatal(str(error))
        return 2
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except Exception:
        if rclpy.ok():
            raise
        # told to stop while it was starting
    finally:
        # `ros2 launch` passes Ctrl-C on to those who have had it already
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if node is not None:
            node.destroy_node()
        executor.shutdown()
        rclpy.try_shutdown()
        gc.freeze()  # the interpreter would look through all of torch once more before it ends
    return 0


def _sentence(error: Exception) -> str:
    return " ".join(str(error).split())
