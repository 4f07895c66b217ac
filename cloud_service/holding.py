"""What a service takes hold of before it starts: its folder, its token, its ports, and the job that was
begun there.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import socket
from pathlib import Path

import sqlalchemy as sa

from cloud_service.artifacts import storage_error
from cloud_service.job import Job
from cloud_service.job_keys import OPERATIONAL
from cloud_service.store import Store, jobs, one
from device_runtime.bundle import Bundle
from device_runtime.errors import OptionError, PortInUse, StoreInUse


def lock_folder(folder: Path) -> int:
    """Makes the folder and holds it for this process until the returned handle is closed. Raises
    StoreInUse.
    """
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


def kept_token(file: Path) -> str:
    """The token in a file, readable by its owner alone; made when there is none yet."""
    try:
        if not file.exists():
            handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "w") as target:
                target.write(secrets.token_urlsafe(32) + "\n")
        return file.read_text().strip()
    except OSError as error:
        raise storage_error(error, file) from None


def read_tls(key: Path | None, cert: Path | None) -> tuple[bytes, bytes] | None:
    """(key, certificate chain), both PEM; None when neither is given. Raises OptionError."""
    if (key is None) != (cert is None):
        raise OptionError("give both --tls-key and --tls-cert, or neither")
    if key is None or cert is None:
        return None
    try:
        return key.read_bytes(), cert.read_bytes()
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


def reachable(host: str) -> str:
    """The name under which others reach a listening address: every-address stands for this machine's name."""
    return socket.getfqdn() if host in ("0.0.0.0", "::", "") else host


def keep_job(store: Store, job: Job, bundle: Bundle) -> None:
    """Writes the job down, or checks that it is the one that was begun here: only operational settings may
    change.
    """
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
