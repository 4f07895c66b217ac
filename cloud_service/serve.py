"""One running service: the store, the conductor's thread, gRPC for devices and HTTP for artifacts and operators."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import socket
import threading
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
import uvicorn

from cloud_service.artifacts import Artifacts, storage_error
from cloud_service.callers import Callers
from cloud_service.conductor import Conductor
from cloud_service.federation import Federation
from cloud_service.grpc_service import GrpcService
from cloud_service.http_app import make_app
from cloud_service.job import OPERATIONAL, Job
from cloud_service.metrics import Metrics
from cloud_service.preparation import Preparation, PublicSide
from cloud_service.store import Store, jobs, one
from device_runtime.bundle import MANIFEST_NAME, PARTS, Bundle
from device_runtime.errors import OptionError, PortInUse, StoreInUse

_GRACE_S = 5.0
_LONGEST_STOP_S = 20.0


@dataclass(frozen=True)
class ServeOptions:
    """Where a service listens and keeps its things. Ports of 0 mean any free one; empty texts mean the default."""

    data_dir: Path
    database: str = ""  # SQLAlchemy URL; default: a SQLite file in data_dir
    host: str = "127.0.0.1"
    grpc_port: int = 9090
    http_port: int = 8080
    operator_token: str = ""  # default: made once and kept in data_dir/operator-token
    enrollment_token: str = ""
    artifacts_url: str = ""  # as devices reach the HTTP side, when they see another address than the service
    tls_key: Path | None = None
    tls_cert: Path | None = None


@dataclass(frozen=True)
class Addresses:
    """Where a started service listens."""

    grpc: str
    http: str
    operator_token_file: str


class Service:
    """A service for one job. `start` it, `wait` until it is stopped or fails, and `stop` it.

    Raises, when made or started, InputError (job, bundle, port) or StoreError (folder, database): show it, end.
    """

    def __init__(self, job: Job, bundle: Bundle, public: PublicSide, options: ServeOptions) -> None:
        self.options = options
        self._stop = threading.Event()
        self._failure: Exception | None = None
        with ExitStack() as opened:  # what was opened is closed again when a later step fails
            opened.callback(os.close, _lock_folder(options.data_dir))
            tls = _read_tls(options)
            self._http_socket = opened.enter_context(listen(options.host, options.http_port, "--http-port"))
            listen(
                options.host, options.grpc_port, "--grpc-port"
            ).close()  # gRPC would complain on stderr itself
            self.store = opened.enter_context(
                closing(Store(options.database or f"sqlite:///{options.data_dir / 'cooperllm.db'}"))
            )
            self._build(job, bundle, public, tls)
            self._opened = opened.pop_all()

    def _build(self, job: Job, bundle: Bundle, public: PublicSide, tls: tuple[bytes, bytes] | None) -> None:
        options = self.options
        token = options.operator_token or _kept_token(options.data_dir / "operator-token")
        artifacts = Artifacts(options.data_dir / "artifacts")
        keep_job(self.store, job, bundle)
        for file in (bundle.folder / MANIFEST_NAME, *(bundle.path(part) for part in PARTS)):
            artifacts.put_file(file)
        scheme = "http" if tls is None else "https"
        self._http = f"{scheme}://{_reachable(options.host)}:{self._http_socket.getsockname()[1]}"
        federation = Federation(
            self.store,
            artifacts,
            job,
            bundle.layout,
            bundle.sha256,
            Metrics(),
            options.enrollment_token,
            options.artifacts_url or self._http,
            wake=lambda: self._conductor.wake.set(),
        )
        preparation = Preparation(self.store, artifacts, job, bundle.layout, public, federation.metrics)
        self._conductor = Conductor(
            federation, preparation, bundle.adapter, bundle.manifest.chain.segments + 1
        )
        callers = Callers(federation, token)
        self._grpc = GrpcService(callers, self._fail)
        self._grpc_port = self._grpc.listen(options.host, options.grpc_port, tls)
        self._web = uvicorn.Server(
            uvicorn.Config(
                make_app(callers, self._fail),
                log_level="warning",
                access_log=False,
                lifespan="off",
                ssl_keyfile=options.tls_key,
                ssl_certfile=options.tls_cert,
            )
        )
        work = {
            "conductor": lambda: self._conductor.run(self._stop),
            "http": lambda: self._web.run(sockets=[self._http_socket]),
        }
        self._threads = [
            threading.Thread(target=self._guarded, args=(item,), name=name, daemon=True)
            for name, item in work.items()
        ]

    def start(self) -> Addresses:
        """Begins to answer and to conduct the job."""
        self._grpc.start()
        for thread in self._threads:
            thread.start()
        return Addresses(
            f"{_reachable(self.options.host)}:{self._grpc_port}",
            self._http,
            "" if self.options.operator_token else str(self.options.data_dir / "operator-token"),
        )

    def wait(self) -> None:
        """Returns when `request_stop` was called; raises what made the service fail."""
        self._stop.wait()
        if self._failure is not None:
            raise self._failure

    def request_stop(self) -> None:
        """Ends `wait`. May be called from a signal handler."""
        self._stop.set()

    def stop(self) -> bool:
        """Refuses new calls, ends those under way, closes the store. Answers whether every thread has ended.

        One that is still computing guides may not have; it is safe to end the process all the same.
        """
        self._stop.set()
        self._conductor.wake.set()
        self._grpc.stop(_GRACE_S)
        self._web.should_exit = True
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(_LONGEST_STOP_S)
        ended = not any(thread.is_alive() for thread in self._threads)
        if ended:
            self._opened.close()
        return ended

    def _fail(self, error: Exception) -> None:
        if self._failure is None:
            self._failure = error
        self._stop.set()

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:
            self._fail(error)


def _lock_folder(folder: Path) -> int:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise storage_error(error, folder) from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise StoreInUse(
            f"{folder} is in use by another service: stop it or choose another --data-dir"
        ) from None
    return handle


def _kept_token(file: Path) -> str:
    try:
        if not file.exists():
            handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "w") as target:
                target.write(secrets.token_urlsafe(32) + "\n")
        return file.read_text().strip()
    except OSError as error:
        raise storage_error(error, file) from None


def _read_tls(options: ServeOptions) -> tuple[bytes, bytes] | None:
    if (options.tls_key is None) != (options.tls_cert is None):
        raise OptionError("give both --tls-key and --tls-cert, or neither")
    if options.tls_key is None or options.tls_cert is None:
        return None
    try:
        return options.tls_key.read_bytes(), options.tls_cert.read_bytes()
    except OSError as error:
        raise OptionError(f"cannot read {error.filename}: {error.strerror}: give a PEM file") from None


def listen(host: str, port: int, option: str) -> socket.socket:
    """A listening socket (port 0: any free one). Raises PortInUse or OptionError, which name `option`."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(512)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise PortInUse(
                f"cannot listen on {host}:{port}: stop the process that does, or choose another {option}"
            ) from None
        raise OptionError(
            f"cannot listen on {host}:{port}: {error.strerror}: correct --host or {option}"
        ) from None
    return listener


def _reachable(host: str) -> str:
    """The name under which others reach a listening address: every-address stands for this machine's name."""
    return socket.getfqdn() if host in ("0.0.0.0", "::", "") else host


def keep_job(store: Store, job: Job, bundle: Bundle) -> None:
    """Writes the job down, or checks that it is the one that was begun here: only operational settings may change."""
    settings = job.to_json_object()
    with store.transaction() as connection:
        row = one(connection, jobs)
        if row is None:
            connection.execute(
                sa.insert(jobs).values(
                    job_id=1,
                    name=job.name,
                    settings=json.dumps(settings),
                    bundle_sha256=bundle.sha256,
                    status="preparing",
                )
            )
            return
        begun = json.loads(row.settings)
        changed = sorted(
            name for name in settings if name not in OPERATIONAL and settings[name] != begun.get(name)
        )
        if row.bundle_sha256 != bundle.sha256:
            changed.append("bundle")
        if changed:
            raise OptionError(
                f"job: this --data-dir or --database holds job {row.name!r} with another "
                f"{', '.join(changed)}: use a new --data-dir, or the job as it was begun"
            )
        connection.execute(sa.update(jobs).values(settings=json.dumps(settings)))
