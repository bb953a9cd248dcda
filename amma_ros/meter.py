"""What a node measures of its own work, and how it is put into diagnostics."""

import os
import sys
import time
from collections import Counter, deque
from threading import Lock

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus, KeyValue
from rclpy.node import Node

KEPT = 1000
"""Measurements between two reports at most."""


class Meter:
    """Counts and durations since the last report. Used by several threads."""

    def __init__(self):
        self._lock = Lock()
        self.totals: Counter = Counter()
        self._reported: Counter = Counter()
        self._values: dict[str, deque] = {}
        self._since = time.monotonic()

    def count(self, name: str, amount: int = 1) -> None:
        with self._lock:
            self.totals[name] += amount

    def measure(self, name: str, value: float) -> None:
        with self._lock:
            self._values.setdefault(name, deque(maxlen=KEPT)).append(value)

    def report(self) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """Counts per second and the measurements, since the last report."""
        with self._lock:
            now = time.monotonic()
            seconds, self._since = max(now - self._since, 1e-9), now
            rates = {name: (self.totals[name] - self._reported[name]) / seconds for name in self.totals}
            self._reported = self.totals.copy()
            values = {name: np.array(kept) for name, kept in self._values.items() if kept}
            self._values = {}
        return rates, values


def latency_ms(now: int, stamp: int) -> float | None:
    """Between two times in nanoseconds; None where one of the clocks has no time (yet)."""
    return (now - stamp) / 1e6 if now > 0 and stamp > 0 else None


def status(name: str, hardware_id: str, fault: str, values: dict[str, object]) -> DiagnosticStatus:
    """OK, or a warning that says what is wrong."""
    return DiagnosticStatus(
        level=DiagnosticStatus.WARN if fault else DiagnosticStatus.OK,
        name=name,
        message=fault or "OK",
        hardware_id=hardware_id,
        values=[KeyValue(key=key, value=_text(value)) for key, value in values.items()],
    )


def no_publisher(node: Node, topic: str, sender: str) -> str:
    """The fault that nobody publishes `topic`, as `sender` should; empty where somebody does."""
    return "" if node.count_publishers(topic) else f"nobody publishes {topic}: is the {sender} running?"


def percentiles(name: str, values: np.ndarray | None) -> dict[str, float]:
    """The median and what all but one in twenty stay under; nothing if nothing was measured."""
    if values is None:
        return {}
    return {f"{name} p50": float(np.median(values)), f"{name} p95": float(np.percentile(values, 95))}


def memory() -> dict[str, float]:
    """Megabytes that this process holds, in main memory and on all GPUs."""
    with open("/proc/self/statm") as file:
        held = {"process memory [MB]": int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6}
    # None too while another thread is about to import torch
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    if cuda is not None and cuda.is_initialized():
        # The current one need not be the one that a node's device names
        reserved = sum(cuda.memory_reserved(number) for number in range(cuda.device_count()))
        held["GPU memory [MB]"] = reserved / 1e6
    return held


def _text(value: object) -> str:
    return f"{value:.1f}" if isinstance(value, float) else str(value)
