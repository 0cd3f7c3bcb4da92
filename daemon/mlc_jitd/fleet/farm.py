"""Compiles done by the workers of a Dask cluster: sent there, watched, and brought back as checked bytes.

The scheduler's key is our key, so equal requests of all daemons are one task. What does not belong here: what a worker
does (`farmhand`), and what follows when the farm can't (`work`).
"""

from __future__ import annotations

import importlib
import logging
import secrets
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

from mlc_jit.errors import JitError
from mlc_jitd.fellows import Crop, FarmError
from mlc_jitd.fleet import farmwork
from mlc_jitd.store import About, ModelRecord, PartRecord, ToolchainRecord
from mlc_jitd.tally import Tally
from mlc_jitd.toolchains.base import Stage

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlc_jitd.build import StopSignal
    from mlc_jitd.identity import Identity

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 10.0
AGAIN_SECONDS = 30.0
"""How long after it could not be reached a scheduler is not asked again."""

POLL_SECONDS = 0.25
LOST_SECONDS = 15.0
"""How long a connection may be away until the compile is given up there."""

SUIT_SECONDS = 30.0
"""How long a task may wait for a worker that has what it takes, when there is none."""

LOOK_SECONDS = 2.0
TELLING_BYTES = 500


def carry_out(task: dict[str, Any]) -> dict[str, Any]:
    """On a worker: do the task. The room that does it is not imported by who only sends tasks."""
    answer: dict[str, Any] = importlib.import_module("mlc_jitd.farmhand").carry_out(task)
    return answer


class DaskFarm:
    """See the module's docstring; a `Farm`. From any thread; it connects when it is first needed.

    Args:
        url: ``dask://host:port``, or ``dasks://host:port`` with TLS as Dask's own configuration has it.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        scheme, _, place = url.partition("://")
        self._address = f"{'tls' if scheme == 'dasks' else 'tcp'}://{place}"
        self._lock = threading.Lock()
        self._client: Any = None
        self._away_until = 0.0
        self._away_why = ""
        self._tally = Tally()

    def compile(
        self,
        identity: Identity,
        *,
        model_path: str,
        device: str,
        redo: bool,
        accelerated: bool,
        background: bool,
        report: Callable[[Stage], None],
        stop: StopSignal,
    ) -> Crop:
        """See `Farm.compile`."""
        client = self._connect()
        wanted = farmwork.wants(identity)
        name = f"mlc-jitd-{identity.key}" + (f"-redo-{secrets.token_hex(8)}" if redo else "")
        task = farmwork.task_of(identity, model_path=model_path, topic=name, redo=redo, accelerated=accelerated)
        report(Stage("farm", f"sent to {self.url}"))
        future = None
        try:
            self._check(client, wanted)
            client.subscribe_topic(name, lambda event: report(_stage(event)))
            future = client.submit(
                carry_out, task, key=name, resources=wanted, priority=-1 if background else 0, fifo_timeout="0ms"
            )
            made = farmwork.made_of(self._wait(client, future, wanted, stop))
        except (JitError, FarmError):
            raise
        except farmwork.FarmReplyError as error:
            self._tally.add("farm_refused")
            raise FarmError(f"{self.url}: {error}") from error
        except farmwork.WorkerFaultError as error:
            raise self._trouble(str(error)) from error
        except Exception as error:  # Dask raises what it likes: a lost scheduler, a worker that died too often
            raise self._trouble(f"{type(error).__name__}: {error}") from error
        finally:
            self._let_go(client, future, name)
        self._tally.add("farm_compiles")
        logger.info("%s was compiled by %s of %s", identity.key[:12], made.worker, self.url)
        origin = f"{self.url}, compiled by {made.worker}"
        return Crop(made.library, _about(identity, made, model_path=model_path, device=device, origin=origin))

    def counters(self) -> dict[str, int]:
        """``farm_compiles``; ``farm_faults``: the farm could not; ``farm_refused``: what came back was no good."""
        return self._tally.read()

    def close(self) -> None:
        """Hang up; what runs for nobody else ends."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close(timeout=2)

    def _connect(self) -> Any:
        try:
            from distributed import Client  # noqa: PLC0415 - the extra may be missing; 0.5 s
        except ImportError as error:
            raise FarmError(f"{error.name} is not installed: `pip install 'mlc-jitd[farm]'`") from error
        with self._lock:
            if self._client is not None and self._client.status == "running":
                return self._client
            if time.monotonic() < self._away_until:
                raise FarmError(f"{self.url} is not asked for now: {self._away_why}")
            if self._client is not None:
                self._client.close(timeout=1)
                self._client = None
            try:
                make: Any = Client
                name = f"mlc-jitd-{socket.gethostname()}"
                self._client = make(self._address, timeout=CONNECT_SECONDS, set_as_default=False, name=name)
            except Exception as error:
                self._away_until, self._away_why = time.monotonic() + AGAIN_SECONDS, str(error)
                raise self._trouble(f"{type(error).__name__}: {error}") from error
            return self._client

    def _wait(self, client: Any, future: Any, wanted: dict[str, float], stop: StopSignal) -> Any:
        """Its result."""
        reached = suited = looked = time.monotonic()
        while True:
            try:
                return future.result(timeout=POLL_SECONDS)
            except TimeoutError:
                pass
            now = time.monotonic()
            if stop.reason is not None:
                raise FarmError("stopped")
            if client.status == "running":
                reached = now
            elif now - reached > LOST_SECONDS:
                raise self._trouble("the connection to the scheduler is lost")
            if now - looked > LOOK_SECONDS and client.status == "running":
                looked = now
                if not farmwork.lacking(wanted, _workers(client)):
                    suited = now
                elif now - suited > SUIT_SECONDS:
                    self._check(client, wanted)

    def _check(self, client: Any, wanted: dict[str, float]) -> None:
        lacking = farmwork.lacking(wanted, _workers(client))
        if lacking:
            raise self._trouble(lacking)

    def _trouble(self, why: str) -> FarmError:
        self._tally.add("farm_faults")
        logger.warning("the compile farm %s could not: %s", self.url, why[:TELLING_BYTES])
        return FarmError(f"{self.url}: {why[:TELLING_BYTES]}")

    def _let_go(self, client: Any, future: Any, name: str) -> None:
        try:
            client.unsubscribe_topic(name)
            if future is not None:
                future.release()
        except Exception as error:  # noqa: BLE001 - see above
            logger.debug("%s could not be let go: %s", name, error)


def _workers(client: Any) -> list[dict[str, float]]:
    return [each["resources"] for each in client.scheduler_info(n_workers=-1)["workers"].values()]


def _stage(event: Any) -> Stage:
    """What a worker tells, from anybody who can reach the scheduler."""
    said = event[1] if isinstance(event, list | tuple) and len(event) > 1 and isinstance(event[1], dict) else {}
    name, detail, host = (_words(said.get(each)) for each in ("stage", "detail", "worker"))
    return Stage(name or "farm", ", ".join(filter(None, (detail, f"on {host}" if host else ""))))


def _words(value: Any) -> str:
    return "".join(each for each in str(value or "")[:200] if each.isprintable())


def _about(identity: Identity, made: farmwork.Made, *, model_path: str, device: str, origin: str) -> About:
    facts = identity.toolchain
    return About(
        suffix=identity.suffix,
        toolchain=ToolchainRecord(
            name=facts.name, fingerprint=facts.fingerprint, interpreter=facts.python, versions=dict(facts.versions)
        ),
        parts={part.name: PartRecord(sha256=part.sha256, value=part.value) for part in identity.parts},
        target=identity.job.device,
        system_lib_prefix=identity.result_prefix,
        model=ModelRecord(path=model_path, type=identity.model_type, quantization=identity.quantization),
        device=device,
        compile=made.compile,
        degraded=made.degraded,
        config=identity.job.config.decode(),
        origin=origin,
    )
