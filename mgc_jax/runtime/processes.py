"""Several processes, on one host or many, that train one model together.

`start` joins them; without it, or with one process, every function here is what it is for a process alone. The
processes run the same program on the same batches (`mgc_jax.runtime.devices`); the first one alone writes to the
workdir and to the terminal, and makes the decisions that depend on more than the arrays on the devices.

JAX's coordination service, which the first process hosts, connects them. Whatever ends one process ends all: each one
looks every second whether another has reported an error, and whether all are still heard of. JAX does that too, but
by aborting with a stack trace; its own limit is set later, for the case that this process's Python hangs.
"""

import contextlib
import json
import logging
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from mgc_jax.errors import UserError
from mgc_jax.runtime.launch import launch_settings, use_all_gpus

log = logging.getLogger(__name__)


LOST_AFTER = 40.0  # seconds without a sign of life after which a process is taken for dead
_BACKSTOP = 100  # seconds: JAX's own limit
_GRACE = 10.0  # seconds in which the first process, which hosts the service, lets the others read why it ends
_LONG = 24 * 3600.0  # others may compute, or write, for long; a dead one is noticed otherwise


class _Group:
    """This process among the others; the last resort is `os._exit`, for the main thread may hang in a collective."""

    def __init__(self, client: Any, index: int, count: int):
        self.client, self.index, self.count = client, index, count
        self.calls = 0  # of what all processes call in the same order
        self._finished, self._ending = threading.Event(), threading.Lock()
        self._answered = time.monotonic()
        self._watch = threading.Thread(target=self._look, daemon=True, name="other processes")
        self._watch.start()
        threading.Thread(target=self._guard, daemon=True, name="coordination service").start()

    def _guard(self) -> None:
        """Ends this process when the service has not answered for long: a call to it may hang."""
        while not self._finished.wait(1.0):
            if time.monotonic() - self._answered > LOST_AFTER:
                self._end(f"process 0, which the others are connected to, has not answered for {LOST_AFTER:.0f} s: it "
                          "was killed, or its host is gone")  # fmt: skip

    def _look(self) -> None:
        """Gives a sign of life, and looks for errors and for the signs of the others, every second."""
        beats: dict[str, tuple[str, float]] = {}
        number = 0
        while not self._finished.wait(1.0):
            try:
                number += 1
                self.client.key_value_set(f"mgc/beat/{self.index}", str(number), True)
                failed = self.client.key_value_dir_get("mgc/failed/")
                alive = dict(self.client.key_value_dir_get("mgc/beat/"))
            except Exception as error:  # the other thread counts the seconds
                log.debug("the coordination service does not answer: %s", error)
                continue
            now = self._answered = time.monotonic()
            if failed and not self._finished.is_set():
                key, value = failed[0]
                message, status = json.loads(value)
                with contextlib.suppress(Exception):  # the service may be gone already
                    self.client.key_value_set(f"mgc/heard/{self.index}", "", True)
                    self._let_others_hear()
                self._end(f"process {key.rpartition('/')[2]} ended: {message}", status, resumable=False)
            for key, beat in alive.items():
                if key not in beats or beats[key][0] != beat:
                    beats[key] = beat, now
            lost = sorted(int(key.rpartition("/")[2]) for key, (_, since) in beats.items() if now - since > LOST_AFTER)
            if lost and not self._finished.is_set():
                names = ", ".join(map(str, lost))
                self._end(f"process {names} has not been heard of for {LOST_AFTER:.0f} s: it was killed, or its host "
                          "is gone", report=f"process {names} was lost")  # fmt: skip

    def _end(self, message: str, status: int = 1, *, resumable: bool = True, report: str = "") -> None:
        """Ends this process from the watching thread."""
        with self._ending:
            remedy = "; the same command on all hosts resumes at the last checkpoint" if resumable else ""
            print(f"error: {message}{remedy}", file=sys.stderr, flush=True)
            if report:  # to the others, before the service goes with this process
                self._post(f"{report}{remedy}", status)
                self._let_others_hear()
            os._exit(status)

    def _post(self, message: str, status: int) -> None:
        try:
            self.client.key_value_set(f"mgc/heard/{self.index}", "", True)
            self.client.key_value_set(f"mgc/failed/{self.index}", json.dumps([message, status]), True)
        except Exception as error:
            log.debug("the error cannot be reported to the other processes: %s", error)

    def _let_others_hear(self) -> None:
        if self.index:
            return
        deadline = time.monotonic() + _GRACE
        while time.monotonic() < deadline:
            try:
                heard = len(self.client.key_value_dir_get("mgc/heard/"))
            except Exception:
                return
            if heard >= self.count:
                time.sleep(0.5)  # for them to be gone before the service is
                return
            time.sleep(0.2)

    def fail(self, message: str, status: int) -> None:
        """Reports to the others why and with which status this process ends, and waits until they have read it."""
        with self._ending:  # once another error is being reported, this is its consequence
            self._finished.set()
            self._post(message, status)
            self._let_others_hear()

    def finish(self) -> None:
        """Waits for all to come to their end, and leaves the service."""
        import jax

        self.client.wait_at_barrier("mgc/end", int(_LONG * 1000))
        self._finished.set()
        self._watch.join()
        jax.distributed.shutdown()


_group: _Group | None = None


def process_index() -> int:
    """The number of this process; 0 is the first."""
    return 0 if _group is None else _group.index


def process_count() -> int:
    """How many processes train together."""
    return 1 if _group is None else _group.count


def is_first() -> bool:
    """Whether this process writes to workdir and terminal: the first one, or the only one."""
    return process_index() == 0


def start(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    timeout: float = 300.0,
) -> None:
    """Joins the processes; does nothing where there is only one.

    What is not given is taken from the environment: `JAX_COORDINATOR_ADDRESS`, `JAX_NUM_PROCESSES` and
    `JAX_PROCESS_ID`, or what SLURM (`srun`) and Open MPI (`mpirun`) set. Call it before JAX is used.

    Args:
        coordinator: host:port of the first process, where it will listen.
        num_processes: how many there are.
        process_id: the number of this one, from 0.
        timeout: seconds to wait for all to be there.

    Raises:
        UserError: the three do not fit together, or the first process is not reachable. (If some never come, the
            process ends with a message and status 1.)
    """
    global _group
    given = launch_settings(coordinator, num_processes, process_id)
    if given is None:
        return
    address, count, index = given
    import jax

    if index and address:
        _wait_for(address, timeout)
    jax.config.update("jax_enable_preemption_service", False)  # it would swallow SIGTERM
    met = threading.Event()
    threading.Thread(target=_give_up, args=(met, address, count, index, timeout), daemon=True).start()
    options: dict[str, Any] = {"cluster_detection_method": "deactivate"} if address else {}
    try:
        jax.distributed.initialize(
            address or None, count if address else None, index if address else None,
            initialization_timeout=int(timeout) + 60, heartbeat_timeout_seconds=_BACKSTOP, **options,
        )  # fmt: skip
    except (RuntimeError, ValueError) as error:
        where = (
            f"process {index} of {count} cannot join the others at {address or 'the address that the launcher set'}"
        )
        raise UserError(f"{where}: {' '.join(str(error).split())}") from error
    met.set()
    from jax._src import distributed as internal  # the key-value store has no public name; Orbax uses it alike

    _group = _Group(internal.global_state.client, index, count)
    hosts = _exchange(socket.gethostname())
    if use_all_gpus(alone=hosts.count(socket.gethostname()) == 1):
        jax.config.update("jax_cuda_visible_devices", "all")
        jax.config.update("jax_rocm_visible_devices", "all")
    if not is_first():
        for name in ("mgc_jax", "tfds_fma"):  # the first one logs for all
            logging.getLogger(name).setLevel(logging.WARNING)
    log.info("%d processes on %d host(s)", count, len(set(hosts)))


def _wait_for(address: str, timeout: float) -> None:
    """Waits until the first process listens; JAX would abort with a stack trace where it does not."""
    host, _, port = address.rpartition(":")
    deadline = time.monotonic() + timeout
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=min(5.0, timeout)).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise UserError(
                    f"no process 0 answers at {address} ({error.strerror or error}) within {timeout:.0f} s: start it "
                    "with --process_id=0 on that host, check the name and that the port is open to this host, or give "
                    "it more time with --coordinator_timeout"
                ) from error
            time.sleep(0.2)


def _give_up(met: threading.Event, address: str, count: int, index: int, timeout: float) -> None:
    if not met.wait(timeout + 5):
        where = f" at {address}" if address else ""
        print(
            f"error: process {index} waited {timeout:.0f} s{where} for all {count} processes to be there: start the "
            "others, each with its own id from 0, or give them more time with --coordinator_timeout",
            file=sys.stderr, flush=True,
        )  # fmt: skip
        os._exit(1)


def _exchange(value: str) -> list[str]:
    """Returns the values that all processes gave, in their order."""
    if _group is None:
        return [value]
    group, timeout = _group, int(_LONG * 1000)
    group.calls += 1
    folder = f"mgc/exchange/{group.calls}"
    group.client.key_value_set(f"{folder}/{group.index}", value)
    return [group.client.blocking_key_value_get(f"{folder}/{i}", timeout) for i in range(group.count)]


def wait_for_all() -> None:
    """Waits until all processes have come here."""
    _exchange("")


def from_first(make: Callable[[], Any]) -> Any:
    """Returns what `make` returns in the first process, the only one that calls it: something JSON can hold."""
    if _group is None:
        return make()
    group = _group
    group.calls += 1
    key = f"mgc/from_first/{group.calls}"
    if is_first():
        group.client.key_value_set(key, json.dumps(make()))
    return json.loads(group.client.blocking_key_value_get(key, int(_LONG * 1000)))


def arrays_from_first(tree: Any) -> Any:
    """Returns the first process's arrays: what other processors compute may differ in the last bit."""
    if _group is None:
        return tree
    from jax.experimental import multihost_utils

    return multihost_utils.broadcast_one_to_all(tree)


def require_same(what: str, values: Mapping[str, Any]) -> None:
    """Raises `UserError` in all processes if they do not have the same values.

    Args:
        what: what is compared, for the message.
        values: what JSON can hold, by name.
    """
    everyone = [json.loads(text) for text in _exchange(json.dumps(dict(values)))]
    first = everyone[0]
    for index, other in enumerate(everyone):
        different = [
            f"{key} is {first.get(key)!r} in process 0 and {other.get(key)!r} in process {index}"
            for key in sorted(first.keys() | other.keys())
            if first.get(key) != other.get(key)
        ]
        if different:
            raise UserError(f"the processes do not have the same {what}: {'; '.join(different[:5])}")


@contextlib.contextmanager
def joined() -> Iterator[None]:
    """Holds the processes together: what ends the block in one of them ends all of them, with the same status.

    That is 1 for an error, 130 for Ctrl-C, and for `SystemExit` its own. With several processes nothing gets out of
    the block: to end as usual means to wait for the others.
    """
    global _group
    try:
        yield
    except BaseException as error:
        if _group is None:
            raise
        if _is_consequence(error):  # the watching thread reports the cause once it knows
            with contextlib.suppress(SystemExit):  # SIGTERM meanwhile
                time.sleep(LOST_AFTER + 10)
        message = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        status = 130 if isinstance(error, KeyboardInterrupt) else 1
        if isinstance(error, UserError):
            message = str(error)
            print(f"error: {message}", file=sys.stderr)
        elif isinstance(error, SystemExit):
            message, status = str(error), error.code if isinstance(error.code, int) else 1
            print(message, file=sys.stderr)
        else:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        _group.fail(message, status)
        os._exit(status)
    if _group is not None:
        _group.finish()
        _group = None


def _is_consequence(error: BaseException) -> bool:
    """Whether an error may come from a process that is gone: a collective or a barrier that failed."""
    cause: BaseException | None = error
    while cause is not None:
        if type(cause).__name__ in ("JaxRuntimeError", "XlaRuntimeError"):
            return "RESOURCE_EXHAUSTED" not in str(cause)
        cause = cause.__cause__ or cause.__context__
    return False
