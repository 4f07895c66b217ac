"""What the service must not forget, in SQL: SQLite beside the artifacts by default, PostgreSQL by its URL.

One process owns a database. Its transactions run one after another, and each one moves the service from one
consistent state to the next: whatever has been sent to anybody was committed before.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine, Row

from device_runtime.errors import OptionError, StoreError, StoreFull
from protos import federation_pb2 as pb

metadata = sa.MetaData()

_LITTLE_BYTES = 1 << 20

clients = sa.Table(
    "clients",
    metadata,
    sa.Column("client_id", sa.String(32), primary_key=True),
    sa.Column("public_key", sa.LargeBinary, nullable=False),
    sa.Column("device_name", sa.String(64), nullable=False),
    sa.Column("checked_in", sa.Boolean, nullable=False, default=False),
    sa.Column(
        "missed", sa.Boolean, nullable=False, default=False
    ),  # let its last lease lapse, not seen since
    sa.Column("adapter_version", sa.BigInteger, nullable=False, default=0),
    sa.Column("adapter_sha256", sa.String(64), nullable=False, default=""),
    sa.Column("max_scalars", sa.BigInteger, nullable=False, default=0),
    sa.Column("max_head_scalars", sa.BigInteger, nullable=False, default=0),
    sa.Column("min_batch_examples", sa.BigInteger, nullable=False, default=0),
    sa.Column("train_examples", sa.BigInteger, nullable=False, default=0),
    sa.Column("download_bytes_per_s", sa.Float, nullable=False, default=0.0),
    sa.Column("streams_versions", sa.Boolean, nullable=False, default=False),
    sa.Column("last_seen_ms", sa.BigInteger, nullable=False, default=0),
)

jobs = sa.Table(
    "jobs",
    metadata,
    sa.Column("job_id", sa.Integer, primary_key=True),
    sa.Column("name", sa.String(64), nullable=False),
    sa.Column("settings", sa.Text, nullable=False),  # JSON, as Job.to_json_object gives it
    sa.Column("bundle_sha256", sa.String(64), nullable=False),
    sa.Column("scale_sha256", sa.String(64), nullable=False, default=""),
    sa.Column("status", sa.String(16), nullable=False),  # preparing, running, finished, failed
    sa.Column("detail", sa.Text, nullable=False, default=""),
)

versions = sa.Table(
    "versions",
    metadata,
    sa.Column("number", sa.BigInteger, primary_key=True),
    sa.Column("adapter_sha256", sa.String(64), nullable=False),
    sa.Column("state_sha256", sa.String(64), nullable=False),  # artifact: RoundState.to_bytes()
    sa.Column("record", sa.LargeBinary, nullable=True),  # proto Record, from number - 1
    sa.Column("delta_sha256", sa.String(64), nullable=False, default=""),
    sa.Column("delta_size_bytes", sa.BigInteger, nullable=False, default=0),
    sa.Column("snapshot_sha256", sa.String(64), nullable=False, default=""),
    sa.Column("snapshot_size_bytes", sa.BigInteger, nullable=False, default=0),
)

rounds = sa.Table(
    "rounds",
    metadata,
    sa.Column("number", sa.BigInteger, sa.ForeignKey("versions.number"), primary_key=True),
    sa.Column("status", sa.String(16), nullable=False),  # open, closing, closed
    sa.Column(
        "plan_sha256", sa.String(64), nullable=False
    ),  # artifact: RoundPlan.to_bytes(); "": only evaluations
    sa.Column("diagnostics", sa.Text, nullable=False, default="{}"),
    sa.Column("opened_ms", sa.BigInteger, nullable=False),
    sa.Column("closed_ms", sa.BigInteger, nullable=False, default=0),
)

tasks = sa.Table(
    "tasks",
    metadata,
    sa.Column("task_id", sa.String(64), primary_key=True),
    sa.Column("round", sa.BigInteger, sa.ForeignKey("rounds.number"), nullable=False, index=True),
    sa.Column("kind", sa.String(16), nullable=False),  # directions, score_segments, evaluate
    sa.Column("slot", sa.String(32), sa.ForeignKey("clients.client_id"), nullable=False),
    sa.Column("holder", sa.String(32), sa.ForeignKey("clients.client_id"), nullable=False, index=True),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("status", sa.String(16), nullable=False),  # see leases.py
    sa.Column("remaining_ms", sa.BigInteger, nullable=False),
    sa.Column(
        "guide", sa.String(64), nullable=False, default=""
    ),  # its name in hex, where the task names one
)

# Scalars of a task that came ahead of its report; only while its lease lives, see parts.py.
parts = sa.Table(
    "parts",
    metadata,
    sa.Column("task_id", sa.String(64), sa.ForeignKey("tasks.task_id"), primary_key=True),
    sa.Column("scalars", sa.LargeBinary, nullable=False),  # float32, little-endian, from the first on
)

reports = sa.Table(
    "reports",
    metadata,
    sa.Column("client_id", sa.String(32), sa.ForeignKey("clients.client_id"), primary_key=True),
    sa.Column("report_id", sa.String(64), primary_key=True),
    sa.Column("task_id", sa.String(64), sa.ForeignKey("tasks.task_id"), nullable=False, index=True),
    sa.Column("round", sa.BigInteger, nullable=False, index=True),
    sa.Column("status", sa.Integer, nullable=False),  # ReportStatus
    sa.Column("body", sa.LargeBinary, nullable=False),  # proto Report
    sa.Column("received_ms", sa.BigInteger, nullable=False),
)

# What a round's guide is called and made to be; there before the guide itself, segment by segment, is.
guides = sa.Table(
    "guides",
    metadata,
    sa.Column("round", sa.BigInteger, primary_key=True),
    sa.Column("facts", sa.Text, nullable=False),  # JSON, see shelf.py
)

# One segment of a round's guide at one level of compression; level 0 is the guide as it was sampled.
guide_segments = sa.Table(
    "guide_segments",
    metadata,
    sa.Column("round", sa.BigInteger, primary_key=True),
    sa.Column("level", sa.Integer, primary_key=True),
    sa.Column("segment", sa.Integer, primary_key=True),
    sa.Column("encoding", sa.Integer, nullable=False),  # GuideEncoding
    sa.Column("sha256", sa.String(64), nullable=False, index=True),  # "": nobody needs it any more
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("start_ms", sa.BigInteger, nullable=False),  # of its sampling or coding
    sa.Column("end_ms", sa.BigInteger, nullable=False),
)

# One segment, or all in one (-1), of what leads from a version, or from nothing (-1), to another; see
# version_pieces.py.
version_pieces = sa.Table(
    "version_pieces",
    metadata,
    sa.Column("start", sa.BigInteger, primary_key=True),
    sa.Column("number", sa.BigInteger, primary_key=True),
    sa.Column("segment", sa.Integer, primary_key=True),
    sa.Column("name", sa.String(64), nullable=False, default=""),  # of all its pieces together, in hex
    sa.Column("encoding", sa.Integer, nullable=False, default=0),  # GuideEncoding
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
)

# One row for every number worth drawing: evaluations, bytes by kind, a device's spans.
metrics = sa.Table(
    "metrics",
    metadata,
    sa.Column("metric_id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("round", sa.BigInteger, nullable=False, index=True),
    sa.Column("client_id", sa.String(32), nullable=False, default=""),
    sa.Column("name", sa.String(32), nullable=False),
    sa.Column("value", sa.Text, nullable=False),  # JSON
)


def _storage_error(error: sa.exc.DBAPIError, engine: Engine) -> StoreError:
    cause = " ".join(str(error.orig).split())  # PostgreSQL's own words take several lines
    full = "disk is full" in cause or "No space left" in cause or "Disk full" in cause
    if engine.dialect.name == "sqlite" and not full and "disk I/O" in cause:
        # SQLite says the same of a full disk and of a broken one.
        folder = Path(engine.url.database or ".").parent
        full = not folder.is_dir() or shutil.disk_usage(folder).free < _LITTLE_BYTES
    if full:
        return StoreFull(
            "no space left for the database: free some and start again; what was stored is intact"
        )
    return StoreError(
        f"the database failed: {cause}: correct this and start again; nothing committed is lost"
    )


def _prepare_sqlite(engine: Engine) -> None:
    @sa.event.listens_for(engine, "connect")
    def connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = (
            None  # we say BEGIN ourselves, so that reads and writes share a transaction
        )
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=10000"):
            connection.execute(f"PRAGMA {pragma}")

    @sa.event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")


class Store:
    """The service's database. `url` is SQLAlchemy's: sqlite:///path or postgresql+psycopg://...

    Raises OptionError when the URL cannot be used, StoreError or StoreFull when it cannot be written: show
    it, stop.
    """

    def __init__(self, url: str) -> None:
        self._lock = threading.RLock()
        self._current: Connection | None = None  # of the thread that holds the lock
        try:
            self.engine = sa.create_engine(url)
        except ModuleNotFoundError as error:
            raise OptionError(
                f"--database: {error.name} is missing: pip install 'cooperllm[postgres]'"
            ) from None
        except (sa.exc.ArgumentError, sa.exc.NoSuchModuleError) as error:
            raise OptionError(f"--database: {error}: use sqlite:///FILE or postgresql+psycopg://…") from None
        if self.engine.dialect.name == "sqlite":
            _prepare_sqlite(self.engine)
        with self.transaction() as connection:
            metadata.create_all(connection)

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """One transaction: committed when the block ends, undone when it raises. Within another of the same
        thread it is part of that one.
        """
        with self._lock:
            if self._current is not None:
                yield self._current
                return
            try:
                with self.engine.begin() as connection:
                    self._current = connection
                    try:
                        yield connection
                    finally:
                        self._current = None
            except sa.exc.DBAPIError as error:
                raise _storage_error(error, self.engine) from None

    def close(self) -> None:
        """Closes the connections; what was committed stays."""
        with self._lock:
            self.engine.dispose()


def one(connection: Connection, table: sa.Table, *conditions: sa.ColumnElement[bool]) -> Row[Any] | None:
    """The row that meets the conditions, or None."""
    return connection.execute(sa.select(table).where(*conditions)).first()


def latest_version(connection: Connection) -> Row[Any] | None:
    """The newest adapter version, or None while the job is being prepared."""
    return connection.execute(sa.select(versions).order_by(versions.c.number.desc()).limit(1)).first()


def open_round(connection: Connection) -> Row[Any] | None:
    """The round that is out, or None between two rounds."""
    return one(connection, rounds, rounds.c.status == "open")


def unfinished_round(connection: Connection) -> Row[Any] | None:
    """The round that is out, or that no longer takes reports but has not given its version yet; or None."""
    return one(connection, rounds, rounds.c.status.in_(("open", "closing")))


def of_last_task(connection: Connection, client_id: str, column: sa.Column[Any], since: int = 0) -> Any:
    """A column of the newest directions task that a client did from round `since` on, or of its report.

    None where it did none.
    """
    done = (
        sa.select(column)
        .select_from(tasks)
        .join(reports, tasks.c.task_id == reports.c.task_id)
        .where(
            reports.c.client_id == client_id,
            reports.c.status == pb.REPORT_STATUS_OK,
            reports.c.round >= since,
            tasks.c.kind == "directions",
        )
        .order_by(reports.c.round.desc())
        .limit(1)
    )
    return connection.execute(done).scalar()
