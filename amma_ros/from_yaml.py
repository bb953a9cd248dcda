"""Messages of any type from what people write in YAML."""

import re
from importlib import import_module

from rclpy.serialization import serialize_message
from rosidl_parser.definition import AbstractNestedType, BasicType, NamespacedType

from amma_core.errors import AmmaError

_REALS = ("float", "double", "long double")


def interface(name: object, kind: str) -> type:
    """The class of a type such as ``std_srvs/srv/Trigger``; kind is ``msg``, ``srv`` or ``action``.

    Raises AmmaError if there is none.
    """
    word = r"([A-Za-z]\w*)"
    match = re.fullmatch(f"{word}/{kind}/{word}", name, re.ASCII) if isinstance(name, str) else None
    if match is None:
        raise AmmaError(f"type is {name!r}, but must be of the form package/{kind}/Name")
    package, short = match.groups()
    try:
        return getattr(import_module(f"{package}.{kind}"), short)
    except ImportError:
        raise AmmaError(
            f"the type {name} is not there: install the package {package} and source its workspace"
        ) from None
    except AttributeError:
        raise AmmaError(f"the type {name} is not there: {package} has no {kind} of that name") from None


def fill(message, values: object):
    """Set the fields of a message from a mapping, nested as the message is; the others keep their defaults.

    Returns the message. Raises AmmaError for unknown fields and values that do not fit.
    """
    _fill(message, values, "")
    try:
        serialize_message(message)
    except Exception as error:
        raise AmmaError(f"{_name(type(message))} does not take these values: {error}") from None
    return message


def _fill(message, values: object, path: str) -> None:
    known = dict(zip(message.get_fields_and_field_types(), message.SLOT_TYPES, strict=True))
    if not isinstance(values, dict):
        what = path.rstrip(".") or "a message"
        raise AmmaError(f"{what} is {values!r}, but must be a mapping of fields to values")
    # rclpy leaves the check of types out where nobody asks for it.
    message._check_fields = True
    for name, value in values.items():
        if name not in known:
            raise AmmaError(f"{_name(type(message))} has no field '{name}'; {_listing(list(known))}")
        try:
            setattr(message, name, _convert(value, known[name], f"{path}{name}"))
        except AssertionError as error:
            # of floats it gives the limits too, with 300 digits
            reason = re.sub(r" and each (float|double) in .*", "", str(error))
            raise AmmaError(f"{path}{name} is {value!r}: {reason}") from None


def _convert(value: object, kind, path: str):
    if isinstance(kind, NamespacedType):
        part = getattr(import_module(".".join(kind.namespaces)), kind.name)()
        _fill(part, value, f"{path}.")
        return part
    if isinstance(kind, AbstractNestedType) and isinstance(value, list):
        return [_convert(item, kind.value_type, f"{path}[{i}]") for i, item in enumerate(value)]
    if isinstance(kind, BasicType) and kind.typename in _REALS and type(value) is int:
        return float(value)
    return value


def _listing(fields: list[str]) -> str:
    return f"it has {', '.join(fields)}" if fields else "it has no fields"


def _name(kind: type) -> str:
    return "/".join([*kind.__module__.split(".")[:2], kind.__name__])
