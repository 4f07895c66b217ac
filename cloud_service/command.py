"""`cooperllm serve`: runs the cloud service for one job until it is stopped."""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
from pathlib import Path

from device_runtime.errors import OptionError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `cooperllm serve`."""
    parser.add_argument("--job", type=Path, required=True, metavar="FILE", help="the job's settings (TOML)")
    parser.add_argument(
        "--data-dir",
        type=Path,
        default=Path("cooperllm-data"),
        metavar="DIR",
        help="keeps artifacts, the SQLite file and the operator token (default: %(default)s)",
    )
    parser.add_argument(
        "--database",
        default="",
        metavar="URL",
        help="postgresql+psycopg://… or sqlite:///FILE (default: SQLite in --data-dir)",
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 for all (default: %(default)s)"
    )
    parser.add_argument(
        "--grpc-port", type=_port, default=9090, metavar="N", help="for devices; 0: any (default: 9090)"
    )
    parser.add_argument(
        "--http-port",
        type=_port,
        default=8080,
        metavar="N",
        help="for artifacts and operators; 0: any (default: 8080)",
    )
    parser.add_argument(
        "--artifacts-url",
        default="",
        metavar="URL",
        help="how devices reach the HTTP side, when not by this machine's own name",
    )
    parser.add_argument(
        "--operator-token-file",
        type=Path,
        metavar="FILE",
        help="token of operators (default: one is made and kept in --data-dir)",
    )
    parser.add_argument(
        "--enrollment-token-file",
        type=Path,
        metavar="FILE",
        help="token that devices must give to enroll (default: none)",
    )
    parser.add_argument("--tls-cert", type=Path, metavar="FILE", help="certificate chain, PEM")
    parser.add_argument("--tls-key", type=Path, metavar="FILE", help="private key, PEM")
    parser.add_argument(
        "--format",
        choices=("text", "json"),
        default="text",
        help="how the one line that says where it listens is written",
    )


def run(options: argparse.Namespace) -> int:
    """Serves until SIGTERM or SIGINT. Raises CooperLLMError: show it, exit with its code."""
    from cloud_service.job import read_job

    job = read_job(options.job)  # before the imports that take seconds
    from cloud_service.public_data import public_side
    from cloud_service.serve import ServeOptions, Service
    from device_runtime.bundle import Bundle

    logging.basicConfig(level=logging.WARNING, format="cooperllm: %(message)s")
    bundle = Bundle.open(job.bundle)
    service = Service(
        job,
        bundle,
        public_side(job, bundle),
        ServeOptions(
            data_dir=options.data_dir,
            database=options.database,
            host=options.host,
            grpc_port=options.grpc_port,
            http_port=options.http_port,
            artifacts_url=options.artifacts_url,
            operator_token=_read_token(options.operator_token_file),
            enrollment_token=_read_token(options.enrollment_token_file),
            tls_key=options.tls_key,
            tls_cert=options.tls_cert,
        ),
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: service.request_stop())
    where = service.start()
    if options.format == "json":
        print(
            json.dumps(
                {
                    "event": "ready",
                    "grpc": where.grpc,
                    "http": where.http,
                    "pid": os.getpid(),
                    "operator_token_file": where.operator_token_file,
                    "job": job.name,
                }
            ),
            flush=True,
        )
    else:
        token = where.operator_token_file or options.operator_token_file
        print(
            f"job {job.name!r}: devices at {where.grpc}, HTTP at {where.http}, operator token in {token}; "
            "Ctrl-C stops",
            flush=True,
        )
    try:
        service.wait()
    finally:
        if not service.stop():
            # What still computes has written nothing that a successor would miss (see conductor).
            failure = sys.exc_info()[1]
            if failure is not None:
                print(f"cooperllm: {failure}", file=sys.stderr, flush=True)
            os._exit(0 if failure is None else 1)
    return 0


def _port(text: str) -> int:
    number = int(text)
    if not 0 <= number <= 65_535:
        raise argparse.ArgumentTypeError(f"{text} is no port: use 0 to 65535")
    return number


def _read_token(file: Path | None) -> str:
    if file is None:
        return ""
    try:
        token = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"cannot read {file}: {getattr(error, 'strerror', None) or error}") from None
    if not token:
        raise OptionError(f"{file} is empty: write the token into it")
    return token
