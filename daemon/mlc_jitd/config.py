"""The daemon's settings, each described once, and the values that they have.

A field of `Settings` is the one source of a setting: its name, default, kind, meaning and whether it can change while a
daemon runs. The key in a file, the variable, the flag, `mlc-jit config` and docs/configuration.md follow from it.

What does not belong here: where texts of settings stand (``sources``), settings of the client (``mlc_jit``), decisions.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mlc_jitd import sources, values

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from mlc_jit.errors import RequestError

logger = logging.getLogger(__name__)


def _setting(
    default: Any,
    meaning: str,
    *,
    least: float = 0,
    kind: values.Kind | None = None,
    live: bool = False,
    shared: bool = True,
    page: str = "",
) -> Any:
    """A field of `Settings`.

    Args:
        default: Also says what kind a number or a switch is.
        meaning: For people, a phrase without a stop; units included.
        least: The smallest number.
        kind: How its text is read, where the default does not say.
        live: Whether SIGHUP changes it in a running daemon; then `app` says how.
        shared: Whether the host's file and the user's may have it, which several daemons read.
        page: The page of docs/ with more about it.
    """
    kind = kind or values.of_default(default, least)
    about = {"meaning": meaning, "kind": kind, "live": live, "shared": shared, "page": page}
    return field(default=default, metadata=about)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a daemon behaves. The variable of a field is ``MLC_JITD_`` and its name in capitals."""

    jobs: int = _setting(0, "compiles at a time; 0 for what the cores allow", live=True, page="scheduling.md")
    cores_per_job: int = _setting(0, "cores of one compile; 0 for up to 4", live=True, page="scheduling.md")
    max_queued: int = _setting(256, "waiting compiles beyond which a client is told `busy`", least=1, live=True)
    compile_seconds: float = _setting(7200.0, "total time of one compile; 0 for no limit", live=True)
    silence_seconds: float = _setting(1800.0, "time without a line of output; 0 for no limit", live=True)
    drain_seconds: float = _setting(
        60.0, "how long running compiles may go on after SIGTERM or `mlc-jit stop`", live=True
    )
    resolve_seconds: float = _setting(180.0, "how long a compiler may take to say what a device text means", least=1)
    backoff_seconds: float = _setting(5.0, "how long a failed compile answers with its failure", live=True)
    max_size: int = _setting(
        20 << 30,
        "what the libraries in the cache may take; 0 for no limit",
        kind=values.SIZE,
        live=True,
        page="cache.md",
    )
    min_free: int = _setting(
        512 << 20,
        "what stays free on the cache's disk, at the cache's cost; 0 for nothing",
        kind=values.SIZE,
        live=True,
        page="cache.md",
    )
    max_age_days: float = _setting(0.0, "how long a library may be unused; 0 for ever", live=True, page="cache.md")
    stale_days: float = _setting(
        30.0, "how long a library stays that no known model folder asks for; 0 for ever", live=True, page="cache.md"
    )
    grace_seconds: float = _setting(
        3600.0, "how long after its publish or last use a library is not collected", live=True, page="cache.md"
    )
    collect_seconds: float = _setting(
        600.0,
        "how often the cache is brought within its bounds, besides after each compile; 0 for `mlc-jit gc` alone",
        live=True,
        page="cache.md",
    )
    prewarm: str = _setting(
        "",
        "lists of libraries that a daemon compiles from its start, with `:` between them",
        kind=values.OPTIONAL_FOLDERS,
        page="watching.md#pre-warming",
    )
    warm: int = _setting(
        2,
        "compilers kept imported between compiles; 0 or `off` for none",
        kind=values.words({"off": "0", "on": "2"}, values.number(int, 0)),
        page="performance.md",
    )
    warm_idle_seconds: float = _setting(600.0, "how long a compiler that nobody needs is kept imported")
    upstream_names: bool = _setting(
        True,
        "put copies of libraries under the names at which upstream's own `jit()` looks",
        page="explain.md#upstreams-own-name",
    )
    idle_seconds: float = _setting(
        14_400.0,
        "how long a daemon that was started on demand, by a client or a socket, stays when nobody is connected and "
        "nothing is to be done; 0 for ever",
        live=True,
        page="services.md",
    )
    cgroup: str = _setting(
        "auto",
        "control groups for compiles: `auto` where one is delegated, `own` if whoever started the daemon delegated its "
        "group, `off`, or the delegated folders with `:` between them",
        kind=values.words({each: each for each in ("auto", "own", "off")}, values.FOLDERS),
        page="scheduling.md#stepping-back",
    )

    acceleration: str = _setting(
        "auto",
        "`auto`: kernels are compiled apart, in parallel, and reused where the compiler's TVM is known; `off`",
        kind=values.one_of("auto", "off"),
        page="kernels.md",
    )
    kernel_bytes: int = _setting(
        2 << 30,
        "what kernels may take in the cache; the least recently used go first",
        kind=values.SIZE,
        page="kernels.md",
    )

    log_format: str = _setting(
        "auto",
        "`text`, `json` (an object a line), or `auto`: systemd's journal with its fields where standard error leads "
        "there, else text",
        kind=values.one_of("auto", "text", "json"),
        page="seeing.md#logs",
    )
    metrics: str = _setting(
        "",
        "where Prometheus scrapes metrics: a port of the loopback interface, an address like `127.0.0.1:9464`, or "
        "`unix:/path`; empty for none",
        kind=values.ADDRESS,
        page="seeing.md#metrics",
    )
    metrics_textfile: str = _setting(
        "",
        "file for node_exporter's textfile collector, ending in `.prom`, written every 15 s; empty for none",
        kind=values.PROM,
        page="seeing.md#metrics",
    )

    layers: str = _setting(
        "",
        "read-only caches that are searched after the home, with `:` between them",
        kind=values.OPTIONAL_FOLDERS,
        page="verification.md#layers",
    )

    remote: str = _setting(
        "",
        "a bucket that a fleet shares: `s3://bucket/prefix`, `gs://…`, `az://…` or `file:///folder`; empty for none",
        kind=values.BUCKET,
        page="fleet.md",
    )
    remote_write: str = _setting(
        "builders",
        "who puts what was compiled into the bucket: `always`, `builders` (who has a `remote_key`) or `never`",
        kind=values.one_of("always", "builders", "never"),
        page="fleet.md#roles",
    )
    remote_key: str = _setting(
        "",
        "file of the private key that signs what goes into the bucket",
        kind=values.OPTIONAL_FOLDERS,
        page="fleet.md#roles",
    )
    remote_trust: str = _setting(
        "",
        "whose libraries are taken from the bucket: public keys, or files of them, with `:` between them; `anyone` for "
        "everybody who can write there; empty for nobody but the own `remote_key`",
        page="fleet.md#roles",
    )
    remote_seconds: float = _setting(
        60.0, "how long a miss may wait for the bucket before it is compiled", least=1, page="fleet.md"
    )
    remote_lease_seconds: float = _setting(
        30.0,
        "how long to wait at most for a host that compiles for the fleet, beyond its last sign of life; 0: each host "
        "compiles for itself",
        page="leases.md",
    )
    executor: str = _setting(
        "",
        "who compiles: `dask://host:port` sends compiles to the workers of a Dask cluster (`dasks://` with TLS); empty "
        "for this host",
        kind=values.FARM,
        page="farm.md",
    )
    executor_fallback: str = _setting(
        "local",
        "what follows when the farm can't: `local` compiles here, `fail` is an error",
        kind=values.one_of("local", "fail"),
        page="farm.md",
    )

    mode: str = _setting(
        "user",
        "`user`: serves the user that runs it and nobody else; `system`: serves the users of this host that are listed",
        kind=values.one_of("user", "system"),
        shared=False,
        page="security.md",
    )
    users: str = _setting(
        "@mlc-jitd",
        "who may ask a system daemon for libraries: users, and groups as `@group`, by name or number",
        kind=values.PRINCIPALS,
        live=True,
        page="security.md#roles",
    )
    prewarmers: str = _setting(
        "",
        "who may besides pre-warm and pin there, likewise",
        kind=values.PRINCIPALS,
        live=True,
        page="security.md#roles",
    )
    admins: str = _setting(
        "root",
        "who may do everything there, likewise: stop it, cancel others' compiles",
        kind=values.PRINCIPALS,
        live=True,
        page="security.md#roles",
    )
    toolchains: str = _setting(
        "",
        "the compilers of a system daemon, a table by name with `python`, and where wanted `toolchain` and "
        "`environment`; the first serves who names none",
        kind=values.TOOLCHAINS,
        page="security.md#what-is-executed",
    )
    client_variables: str = _setting(
        "",
        "variables of clients that reach the compilers of a system daemon, besides those that only choose devices and "
        "architectures",
        kind=values.VARIABLES,
        page="security.md#what-is-executed",
    )
    user_jobs: int = _setting(
        32,
        "compiles of one user that may wait or run in a system daemon; 0 for no limit",
        live=True,
        page="security.md#quotas",
    )
    user_bytes: int = _setting(
        8 << 30,
        "what a system daemon compiles for one user within a day, in bytes of libraries; 0 for no limit",
        kind=values.SIZE,
        live=True,
        page="security.md#quotas",
    )
    user_connections: int = _setting(
        1024, "connections of one user to a system daemon", least=1, live=True, page="security.md#quotas"
    )

    @classmethod
    def load(
        cls,
        environ: Mapping[str, str] | None = None,
        *,
        flags: Mapping[str, str] | None = None,
        strict: bool = True,
    ) -> Settings:
        """The settings that files, an environment and flags ask for.

        Args:
            environ: Variables to go by instead of the process's own.
            flags: Texts by the names of fields; they beat everything.
            strict: Refuse a slip; else each is logged and passed over: a slip in some client's environment must not
                keep that client from its library.

        Raises:
            RequestError: The first slip.
        """
        found = gather(environ, flags=flags)
        for slip in found.slips:
            if strict:
                raise slip
            logger.warning("%s It is passed over. %s", slip.message, slip.remedy)
        return found.settings


@dataclass(frozen=True, slots=True)
class Value:
    """One setting's value, and who says so: the path of a file, the name of a variable or flag; empty for nobody."""

    name: str
    value: Any
    origin: sources.Origin
    source: str


@dataclass(frozen=True, slots=True)
class Found:
    """What there is.

    Attributes:
        settings: The values together.
        values: Each with its origin, in the order of the fields.
        files: Every file that is looked for, and whether it is there; the later beats the earlier.
        slips: What is wrong, each with its remedy; the next best value serves.
        in_files: Those of them that somebody wrote into a file.
    """

    settings: Settings
    values: tuple[Value, ...]
    files: tuple[tuple[Path, bool], ...]
    slips: tuple[RequestError, ...]
    in_files: tuple[RequestError, ...]


def gather(environ: Mapping[str, str] | None = None, *, flags: Mapping[str, str] | None = None) -> Found:
    """Every setting's value and origin; a slip is reported, never raised. Arguments as of `Settings.load`."""
    env = os.environ if environ is None else environ
    fields = dataclasses.fields(Settings)
    kinds: dict[str, values.Kind] = {each.name: each.metadata["kind"] for each in fields}
    lone = {each.name for each in fields if not each.metadata["shared"]}
    found = {each.name: Value(each.name, each.default, "default", "") for each in fields}
    slips: list[RequestError] = []
    elsewhere: list[RequestError] = []
    files = []
    given: list[sources.Given] = []
    for path in sources.files_of(env):
        named = os.fspath(path) == env.get(sources.CONFIG)
        said = sources.of_file(path, kinds, slips, named=named, lone=lone)
        files.append((path, said is not None))
        given += said or ()
    given += sources.of_variables(env, kinds, elsewhere)
    given += sources.of_flags(flags or {})
    for each in given:
        try:
            value = kinds[each.name].read(each.text)
        except ValueError as error:
            (slips if each.origin == "file" else elsewhere).append(each.slip(error))
        else:
            found[each.name] = Value(each.name, value, each.origin, each.source)
    settings = Settings(**{name: each.value for name, each in found.items()})
    return Found(settings, tuple(found.values()), tuple(files), (*slips, *elsewhere), tuple(slips))
