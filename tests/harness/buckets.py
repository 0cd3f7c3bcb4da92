"""Object stores for tests: a small one that speaks S3 over real sockets and fails on command, and SeaweedFS.

The small one is a double: it keeps to what obstore needs of S3 and does not look at signatures.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import email.utils
import hashlib
import hmac
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape, unescape

if TYPE_CHECKING:
    from collections.abc import Callable

BUCKET = "tier"


def settings_of(endpoint: str, prefix: str = "fleet") -> dict[str, str]:
    """The variables of a daemon that uses a server's bucket."""
    return {
        "MLC_JITD_REMOTE": f"s3://{BUCKET}/{prefix}",
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "testkey",
        "AWS_SECRET_ACCESS_KEY": "testsecret",
        "AWS_REGION": "us-east-1",
    }


@dataclass
class Fault:
    """What a `FaultyS3` does instead of its work.

    Attributes:
        status: Answers with this.
        seconds: Waits so long first.
        torn: Sends half of a body and hangs up.
        wrong: Sends other bytes, as many.
        methods: Of which requests.
    """

    status: int = 0
    seconds: float = 0.0
    torn: bool = False
    wrong: bool = False
    methods: tuple[str, ...] = ("GET", "HEAD", "PUT", "POST", "DELETE")


@dataclass
class FaultyS3:
    """An object store in memory that speaks S3 and fails on command; ``with`` serves it.

    Attributes:
        conditional: Whether it keeps to ``If-None-Match``; else it overwrites and says that all is well.
    """

    objects: dict[str, bytes] = field(default_factory=dict)
    fault: Fault = field(default_factory=Fault)
    requests: list[str] = field(default_factory=list)
    conditional: bool = True
    host: str = "127.0.0.1"
    port: int = 0

    def __enter__(self) -> Self:
        self.resume()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def endpoint(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.port}"

    def resume(self) -> None:
        """Serve, at the port of before."""
        owner = self

        class Handler(_Handler):
            s3 = owner

        self._server = _Server((self.host, self.port), Handler)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), name="faulty-s3")
        self._thread.start()

    def kill(self) -> None:
        """Stop listening, and hang up on everybody; what it holds stays."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
            self._server.hang_up()
            self._server.server_close()

    def names(self, prefix: str = "") -> list[str]:
        """The objects whose names begin so."""
        return sorted(name for name in self.objects if name.startswith(prefix))


class _Server(ThreadingHTTPServer):
    allow_reuse_address = True
    daemon_threads = False
    block_on_close = True

    def __init__(self, *arguments: Any) -> None:
        self.connections: set[socket.socket] = set()
        super().__init__(*arguments)

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no news."""

    def hang_up(self) -> None:
        for each in list(self.connections):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    s3: FaultyS3
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 60

    def log_message(self, *_: object) -> None:
        """Be quiet."""

    def do_GET(self) -> None:
        self._serve(self._get)

    def do_HEAD(self) -> None:
        self._serve(self._get)

    def do_PUT(self) -> None:
        self._serve(self._put)

    def do_POST(self) -> None:
        """Several objects removed at once."""
        self._serve(self._delete_many)

    def do_DELETE(self) -> None:
        self._serve(self._delete)

    def _serve(self, work: Any) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self.s3.requests.append(f"{self.command} {self.path}")
        fault = self.s3.fault if self.command in self.s3.fault.methods else Fault()
        end = time.monotonic() + fault.seconds
        while time.monotonic() < end and self.s3.fault is fault and self.connection in self.server.connections:
            time.sleep(0.02)
        if fault.status:
            self._answer(fault.status, b"<Error><Code>Provoked</Code></Error>")
            return
        work(unquote(urlsplit(self.path).path).removeprefix(f"/{BUCKET}").removeprefix("/"), body, fault)

    def _get(self, name: str, _body: bytes, fault: Fault) -> None:
        query = parse_qs(urlsplit(self.path).query)
        if "list-type" in query:
            self._list(query)
        elif name not in self.s3.objects:
            self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
        else:
            data = self.s3.objects[name]
            self._answer(200, bytes(byte ^ 1 for byte in data) if fault.wrong else data, torn=fault.torn)

    def _list(self, query: dict[str, list[str]]) -> None:
        prefix, after = query.get("prefix", [""])[0], query.get("start-after", [""])[0]
        rows = [
            f"<Contents><Key>{escape(name)}</Key><Size>{len(self.s3.objects[name])}</Size>"
            f"<LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>{_tag(self.s3.objects[name])}</ETag></Contents>"
            for name in self.s3.names(prefix)
            if name > after
        ]
        whole = f"<ListBucketResult><IsTruncated>false</IsTruncated>{''.join(rows)}</ListBucketResult>"
        self._answer(200, whole.encode())

    def _put(self, name: str, body: bytes, _fault: Fault) -> None:
        there = self.s3.objects.get(name)
        wanted = self.headers.get("If-Match")
        if (self.s3.conditional and self.headers.get("If-None-Match") == "*" and there is not None) or (
            wanted and (there is None or _tag(there) != wanted)
        ):
            self._answer(412, b"<Error><Code>PreconditionFailed</Code></Error>")
            return
        self.s3.objects[name] = body
        self._answer(200, b"", tag=_tag(body))

    def _delete_many(self, _name: str, body: bytes, _fault: Fault) -> None:
        for name in re.findall(r"<Key>([^<]*)</Key>", body.decode()):
            self.s3.objects.pop(unescape(name), None)
        self._answer(200, b"<DeleteResult></DeleteResult>")

    def _delete(self, name: str, _body: bytes, _fault: Fault) -> None:
        self.s3.objects.pop(name, None)
        self._answer(204, b"")

    def _answer(self, status: int, body: bytes, *, torn: bool = False, tag: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", tag or _tag(body))
        self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if torn else body)
        if torn:
            self.close_connection = True


def _tag(data: bytes) -> str:
    return f'"{hashlib.md5(data).hexdigest()}"'


def _serving(command: list[str], log: Path, serves: Callable[[], bool]) -> subprocess.Popen[bytes]:
    """A server that ends with this process, once it serves."""
    with log.open("ab") as said:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True, preexec_fn=_with_me,  # noqa: PLW1509 - no thread holds a lock that it takes
        )  # fmt: skip
    deadline = time.monotonic() + 60
    while not serves():
        assert process.poll() is None, log.read_text(errors="replace")[-3000:]
        assert time.monotonic() < deadline, log.read_text(errors="replace")[-3000:]
        time.sleep(0.05)
    return process


class Seaweed:
    """A SeaweedFS with one bucket, in a process of its own; ``with`` runs it.

    Args:
        folder: Its data; kept over a `kill` and a `start`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ports = _free_ports(len(_PORTS))
        self._process: subprocess.Popen[bytes] | None = None

    @staticmethod
    def program() -> str | None:
        """Its program, if there is one."""
        beside = Path(sys.executable).with_name("weed")
        return os.fspath(beside) if beside.exists() else shutil.which("weed")

    @property
    def endpoint(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self._ports[0]}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill(signal.SIGTERM)

    def start(self) -> None:
        """Begin, and wait until it serves."""
        self._folder.mkdir(exist_ok=True)
        identity = {"accessKey": "testkey", "secretKey": "testsecret"}
        rights = {"name": "test", "credentials": [identity], "actions": ["Admin", "Read", "Write", "List"]}
        (self._folder / "s3.json").write_text(json.dumps({"identities": [rights]}))
        ports = [f"-{name}={port}" for name, port in zip(_PORTS, self._ports, strict=True)]
        program = self.program()
        assert program is not None
        command = [
            program, "mini", f"-dir={self._folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-admin.ui=false",
            "-webdav=false", "-s3.port.iceberg=0", "-s3.port.lance=0", f"-bucket={BUCKET}",
            f"-s3.config={self._folder}/s3.json", *ports,
        ]  # fmt: skip
        self._process = _serving(command, self._folder / "log", self._serves)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """End it; what it holds stays."""
        if self._process is not None:
            os.kill(self._process.pid, number)
            try:
                self._process.wait(40)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def _serves(self) -> bool:
        """Whether the bucket takes objects and gives all that it holds: its volumes come after its door."""
        import obstore.exceptions
        from obstore.store import S3Store

        bucket = S3Store(
            BUCKET, endpoint=self.endpoint, access_key_id="testkey", secret_access_key="testsecret", region="us-east-1",
            client_options={"allow_http": True, "timeout": "2s"}, retry_config={"max_retries": 0},
        )  # fmt: skip
        try:
            obstore.put(bucket, "ready", b"ready")
            for page in obstore.list(bucket):
                for each in page:
                    obstore.get(bucket, each["path"]).bytes()
        except (obstore.exceptions.BaseError, OSError):
            return False
        return True


class Azurite:
    """An Azurite with one container, in a process of its own; ``with`` runs it.

    Args:
        folder: For its log.
    """

    ACCOUNT = "devstoreaccount1"
    KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
    """The one that Azurite's documentation names."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (self.port,) = _free_ports(1)
        self._process: subprocess.Popen[bytes] | None = None

    @staticmethod
    def program() -> str | None:
        """Its program, if there is one: ``npm install azurite`` makes it."""
        return shutil.which(os.environ.get("MLC_JITD_TEST_AZURITE") or "azurite-blob")

    @property
    def settings(self) -> dict[str, str]:
        """The variables of who uses its container."""
        return {
            "MLC_JITD_REMOTE": f"az://{BUCKET}/fleet",
            "AZURE_STORAGE_ACCOUNT_NAME": self.ACCOUNT,
            "AZURE_STORAGE_ACCOUNT_KEY": self.KEY,
            "AZURE_STORAGE_ENDPOINT": f"http://127.0.0.1:{self.port}/{self.ACCOUNT}",
        }

    def __enter__(self) -> Self:
        self._folder.mkdir(exist_ok=True)
        program = self.program()
        assert program is not None
        command = [
            program, "--location", os.fspath(self._folder), "--blobPort", str(self.port), "--silent",
            "--skipApiVersionCheck", "--disableTelemetry",
        ]  # fmt: skip
        self._process = _serving(command, self._folder / "log", self._made)
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _made(self) -> bool:
        """Whether the container is there; obstore makes none."""
        now = email.utils.formatdate(usegmt=True)
        names = {"x-ms-date": now, "x-ms-version": "2021-08-06"}
        resource = f"/{self.ACCOUNT}/{self.ACCOUNT}/{BUCKET}\nrestype:container"
        text = "PUT" + "\n" * 12 + "".join(f"{name}:{value}\n" for name, value in names.items()) + resource
        mac = hmac.new(base64.b64decode(self.KEY), text.encode(), hashlib.sha256).digest()
        names["Authorization"] = f"SharedKey {self.ACCOUNT}:{base64.b64encode(mac).decode()}"
        url = f"http://127.0.0.1:{self.port}/{self.ACCOUNT}/{BUCKET}?restype=container"
        request = urllib.request.Request(url, method="PUT", headers={**names, "Content-Length": "0"})
        try:
            with urllib.request.urlopen(request, timeout=5):
                return True
        except urllib.error.HTTPError as error:
            with error:
                return error.code == 409
        except OSError:
            return False


def _with_me() -> None:
    """In a child: end when the tests end, however they do."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


_PORTS = (
    "s3.port", "s3.port.grpc", "master.port", "master.port.grpc", "filer.port", "filer.port.grpc", "volume.port",
    "volume.port.grpc", "admin.port", "admin.port.grpc",
)  # fmt: skip


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
