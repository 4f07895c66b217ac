"""One running service: the store, the conductor's thread, gRPC for devices and HTTP for artifacts and
operators.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from cloud_service import chain, split
from cloud_service.artifacts import Artifacts
from cloud_service.callers import Callers
from cloud_service.conductor import Conductor
from cloud_service.epsilon import doubt
from cloud_service.federation import Federation
from cloud_service.grpc_service import GrpcService
from cloud_service.holding import keep_job, kept_token, listen, lock_folder, reachable, read_tls
from cloud_service.http_app import make_app
from cloud_service.job import Job
from cloud_service.metrics import Metrics
from cloud_service.preparation import Preparation, PublicSide
from cloud_service.shelf import Shelf
from cloud_service.store import Store
from device_runtime.bundle import MANIFEST_NAME, PARTS, Bundle

_LOG = logging.getLogger("cooperllm.serve")
_GRACE_S = 5.0
_LONGEST_STOP_S = 20.0


@dataclass(frozen=True)
class ServeOptions:
    """Where a service listens and keeps its things. Ports of 0 mean any free one; empty texts mean the
    default.
    """

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

    Raises, when made or started, InputError (job, bundle, port) or StoreError (folder, database): show it,
    end.
    """

    def __init__(self, job: Job, bundle: Bundle, public: PublicSide, options: ServeOptions) -> None:
        self.options = options
        self._stop = threading.Event()
        self._failure: Exception | None = None
        with ExitStack() as opened:  # what was opened is closed again when a later step fails
            opened.callback(os.close, lock_folder(options.data_dir))
            tls = read_tls(options.tls_key, options.tls_cert)
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
        token = options.operator_token or kept_token(options.data_dir / "operator-token")
        artifacts = Artifacts(options.data_dir / "artifacts")
        keep_job(self.store, job, bundle)
        if doubted := doubt(job, bundle):
            _LOG.warning(doubted)
        for file in (bundle.folder / MANIFEST_NAME, *(bundle.path(part) for part in PARTS)):
            artifacts.put_file(file)
        scheme = "http" if tls is None else "https"
        self._http = f"{scheme}://{reachable(options.host)}:{self._http_socket.getsockname()[1]}"
        shelf = Shelf(self.store, artifacts, bundle.layout)
        federation = Federation(
            self.store,
            artifacts,
            job,
            bundle.layout,
            bundle.sha256,
            job.segments_of(bundle),
            Metrics(),
            shelf,
            options.enrollment_token,
            options.artifacts_url or self._http,
            wake=lambda: self._conductor.wake.set(),
            schedule=chain.of_job(job, bundle),
            split=split.of_job(job, bundle),
        )
        preparation = Preparation(
            self.store, artifacts, job, bundle.layout, public, federation.metrics, shelf
        )
        self._conductor = Conductor(federation, preparation, bundle.adapter)
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
            f"{reachable(self.options.host)}:{self._grpc_port}",
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
