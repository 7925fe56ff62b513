"""Settings of a process before it loads torch, and its environment: the ranks and the cores that it may use."""

from __future__ import annotations

import ctypes
import logging
import os
import resource
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from autospike.memory.allocator import M_TRIM_THRESHOLD, TRIM_THRESHOLD_BYTES

# How torch, oneDNN and MKL are limited to AVX2 (their documentation of environment variables).
AVX2_ALONE = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}


def prepare_process() -> None:
    """Prepare a process of the command line or a worker. Call before torch is imported.

    It limits busy waiting and the instruction set, makes malloc retain memory, and silences Pillow about damaged files: a file that
    cannot be read is an error of its own.

    An OpenMP thread of libgomp that waits actively without limit slows down other processes of a busy machine. A glibc malloc that
    returns large blocks to the system after each step costs up to a third of the time of an evaluation. malloc's thread caches of
    small blocks fragment the space of large ones; they can only be disabled by the environment of processes started later, such as
    workers. AUTOSPIKE_ISA=avx2 limits not only our kernels but torch, oneDNN and MKL as well: the process runs, and compares itself
    with others, as on a processor without AVX-512.
    """
    warnings.filterwarnings("ignore", module=r"PIL\.")
    logging.getLogger("PIL").addHandler(logging.NullHandler())  # without a handler, errors are printed
    if os.environ.get("AUTOSPIKE_ISA") == "avx2":
        for name, value in AVX2_ALONE.items():
            os.environ.setdefault(name, value)
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(M_TRIM_THRESHOLD, TRIM_THRESHOLD_BYTES)
            os.environ.setdefault("GLIBC_TUNABLES", "glibc.malloc.tcache_count=0")


# Signals that end a command in an orderly way: Ctrl-C, `kill`, and the end of a terminal session.
ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# By this signal, a process asks its worker to end a training after a checkpoint. It differs from those above, which also reach a
# worker when they are sent to the whole process group: the second of two signals ends a training at once.
STOP_SIGNAL = signal.SIGUSR1
# Signals often come in pairs, such as SIGTERM and SIGHUP. A later one means that the user will not wait for the clean-up.
PATIENCE_SECONDS = 2.0
# Pause before a signal is sent again whose exception was swallowed.
RESEND_SECONDS = 0.05


@dataclass(kw_only=True)
class ReceivedSignal:
    """The first signal that a process received.

    Attributes:
        number: Its number, 0 if there was none.
        at: When it was received, of `time.monotonic`.
    """

    number: int = 0
    at: float = 0.0

    @property
    def exit_code(self) -> int:
        """128 plus the number of the signal, by convention of shells."""
        return 128 + self.number


@contextmanager
def interruptible() -> Iterator[ReceivedSignal]:
    """Raise KeyboardInterrupt in the block on the first SIGINT, SIGTERM or SIGHUP, so that it cleans up.

    A signal that comes right after the first is ignored, a later one ends the process at once. Signals that the process ignores
    stay ignored, as SIGHUP under nohup. After a signal, all of them are ignored until the process ends.

    Yields:
        The received signal.
    """
    received = ReceivedSignal()

    def handle(number: int, _frame: FrameType | None) -> None:
        if not received.number:
            received.number, received.at = number, time.monotonic()
            raise KeyboardInterrupt
        if time.monotonic() - received.at > PATIENCE_SECONDS:
            os._exit(128 + number)

    heeded = [number for number in ENDING_SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, handle) for number in heeded}
    hook, sys.unraisablehook = sys.unraisablehook, _resending(received, sys.unraisablehook)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_IGN if received.number else handler)
        # CPython remembers a KeyboardInterrupt that left a text run by `exec`, as of dataclasses, although it was caught since, and
        # `python -m` then ends by SIGINT, not with the exit code. Any other text makes it forget.
        exec("")
        sys.unraisablehook = hook


def _resending(received: ReceivedSignal, hook: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Hook for exceptions that Python cannot raise: a KeyboardInterrupt inside of a destructor is raised again a moment later."""

    def resend() -> None:
        os.kill(os.getpid(), number)

    number = 0

    def on_unraisable(unraisable: Any) -> None:
        nonlocal number
        if not isinstance(unraisable.exc_value, KeyboardInterrupt) or not received.number:
            hook(unraisable)
            return
        number, received.number = received.number, 0
        timer = threading.Timer(RESEND_SECONDS, resend)
        timer.daemon = True
        timer.start()

    return on_unraisable


class SignalCatcher:
    """Context manager that catches the first of the signals that end a process. A second one is handled as before the context.

    A signal that the process ignores stays ignored, as SIGHUP under nohup.

    Attributes:
        signal: Number of the signal, 0 if none came.
    """

    SIGNALS = (*ENDING_SIGNALS, STOP_SIGNAL)

    def __init__(self) -> None:
        self.signal = 0
        self._handlers: dict[signal.Signals, Any] = {}

    def __enter__(self) -> SignalCatcher:
        heeded = [number for number in self.SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
        self._handlers = {number: signal.signal(number, self._catch) for number in heeded}
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        self._restore()

    def _catch(self, number: int, _frame: FrameType | None) -> None:
        self.signal = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)


@contextmanager
def signals_blocked() -> Iterator[None]:
    """Block SIGINT and SIGHUP in a block. Processes that start in it inherit this: only their parent acts on Ctrl-C.

    Signals that come in the block are delivered after it.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def world_size() -> int:
    """Return the number of ranks that torchrun started; 1 without torchrun, even if a job scheduler sets WORLD_SIZE."""
    return int(os.environ["WORLD_SIZE"]) if "LOCAL_RANK" in os.environ else 1


def available_cores() -> int:
    """Return the number of cores that this process may use, by its CPU affinity and the CPU quota of its container."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = Path("/sys/fs/cgroup/cpu.max")  # microseconds in each period, or "max"
    allowed, _, period = quota.read_text().partition(" ") if quota.exists() else ("max", "", "")
    return cores if allowed == "max" else max(1, min(cores, int(allowed) // int(period)))


def peak_memory_bytes() -> int:
    """Return the largest resident memory that this process has had, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024  # bytes in one unit of ru_maxrss
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def memory_limit() -> int | None:
    """Return the bytes of memory that this process may use: of the machine with swap space, its container, and its own limit.

    Returns:
        The smallest limit, or None if no limit is known.
    """
    limits = []
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in meminfo.read_text().splitlines()}
        limits.append((kilobytes["MemTotal"] + kilobytes.get("SwapTotal", 0)) * 1024)
    container = Path("/sys/fs/cgroup/memory.max")  # bytes, or "max"
    if container.exists() and (allowed := container.read_text().strip()).isdigit():
        limits.append(int(allowed))
    own, _ = resource.getrlimit(resource.RLIMIT_AS)
    limits += [own] if own != resource.RLIM_INFINITY else []
    return min(limits, default=None)
