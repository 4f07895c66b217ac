"""The HTTP side: artifacts for devices, and jobs, rounds, versions and metrics for operators.

GET /v1/artifacts/{sha256}   device signature or operator token; Range allowed
GET /v1/jobs                 operator: the job, its settings and where it stands
GET /v1/rounds[/{number}]    operator: rounds; one with its diagnostics, evaluations, bytes by kind and spans
GET /v1/versions             operator: adapter versions and the artifacts that hold them
GET /metrics                 operator: Prometheus' text form
GET /healthz                 anybody: the process answers
GET /readyz                  anybody: 200 while the job can give work to devices, else 503
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse

from cloud_service import reading, signatures, wire
from cloud_service.callers import Callers
from device_runtime.errors import StoreError

_HTTP_STATUS = {
    "INVALID_ARGUMENT": 400, "UNAUTHENTICATED": 401, "PERMISSION_DENIED": 403, "NOT_FOUND": 404,
    "RESOURCE_EXHAUSTED": 429,
}  # fmt: skip


def _operator(callers: Callers) -> Callable[[Request], None]:
    def check(request: Request) -> None:
        callers.limit.check("http:" + (request.client.host if request.client else ""))
        callers.operator(request.headers.get("authorization", ""))

    return check


def make_app(callers: Callers, failed: Callable[[Exception], None]) -> FastAPI:
    """The application. `failed` is told of a store that can no longer be read or written."""
    app = FastAPI(title="CooperLLM", docs_url=None, redoc_url=None, openapi_url=None)
    federation = callers.federation

    @app.exception_handler(wire.WireError)
    def refused(_: Request, error: wire.WireError) -> Response:
        return JSONResponse({"detail": error.detail}, status_code=_HTTP_STATUS.get(error.status, 503))

    @app.exception_handler(StoreError)
    def broken(_: Request, error: StoreError) -> Response:
        failed(error)
        return JSONResponse({"detail": "the service cannot answer now: repeat later"}, status_code=503)

    _add_artifacts(app, callers)
    operator = [Depends(_operator(callers))]

    @app.get("/v1/jobs", dependencies=operator)
    def all_jobs() -> list[dict[str, Any]]:
        return reading.all_jobs(federation)

    @app.get("/v1/rounds", dependencies=operator)
    def all_rounds() -> list[dict[str, Any]]:
        return reading.all_rounds(federation.store)

    @app.get("/v1/rounds/{number}", dependencies=operator)
    def one_round(number: int) -> dict[str, Any]:
        found = reading.one_round(federation, number)
        if found is None:
            raise HTTPException(404, f"there is no round {number} yet")
        return found

    @app.get("/v1/versions", dependencies=operator)
    def all_versions() -> list[dict[str, Any]]:
        return reading.all_versions(federation.store)

    @app.get("/metrics", dependencies=operator)
    def metrics() -> Response:
        return PlainTextResponse(federation.metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/healthz")
    def live() -> dict[str, str]:
        return {"status": "live"}

    @app.get("/readyz")
    def ready() -> Response:
        status = reading.job_status(federation.store)
        return JSONResponse({"status": status}, status_code=200 if status in ("running", "finished") else 503)

    return app


def _add_artifacts(app: FastAPI, callers: Callers) -> None:
    federation = callers.federation

    def caller(request: Request) -> None:
        if "authorization" in request.headers:
            _operator(callers)(request)
        else:
            path = request.url.path
            callers.device(request.headers, lambda time_ms: signatures.signed_get(path, time_ms))

    @app.get("/v1/artifacts/{sha256}", dependencies=[Depends(caller)])
    def artifact(sha256: str) -> Response:
        if not wire.is_sha256_hex(sha256) or not federation.artifacts.has(sha256):
            raise HTTPException(404, "there is no artifact of this hash")
        return _CountedFile(
            federation.artifacts.path(sha256), lambda size: federation.metrics.moved("artifacts", size)
        )


class _CountedFile(FileResponse):
    """A file whose sent bytes are counted, whatever range was asked for."""

    def __init__(self, path: Any, moved: Callable[[int], None]) -> None:
        super().__init__(path, media_type="application/octet-stream")
        self._moved = moved

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def counted(message: Any) -> None:
            if message["type"] == "http.response.body":
                self._moved(len(message.get("body", b"")))
            await send(message)

        await super().__call__(scope, receive, counted)
