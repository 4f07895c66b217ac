"""What a round is made of: the cloud's state, the plan that a round follows, and what comes back.

Plain frozen values that know no gRPC, SQL or torch. State and plan have an exact byte form (`round_bytes`),
which the service writes down before anything leaves it: a restart continues with the same bits. Fields that
also travel are named as in federation.proto.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from cloud_service.chain import ChainSettings, ChainState
from cloud_service.directions import Direction, Float32, Float64, Guide, Guides, GuideTerm
from cloud_service.round_bytes import pack, plain, unpack


@dataclass(frozen=True)
class RoundSettings:
    """The part of a job, and of its chain's stage, that decides a round.

    `guide_weight` None means the variance-optimal weight.
    """

    estimator: str  # "isotropic" | "zgr" | "fedspzo" | "chainfed"
    directions: str  # "shared" | "per_device"
    directions_per_task: int
    batch_examples: int
    epsilon: float
    learning_rate: float
    rounds: int  # of the job; of the stage, with chainfed
    learning_rate_decay: str = "linear"  # "linear": to 0 over `rounds` from `first_round` on | "none"
    momentum: float = 0.0
    guide_weight: float | None = None
    isotropic_fraction: float = 0.5
    paper_form: bool = False
    exact_head: bool = False
    boundary: int = 0  # first segment of the second block, with fedspzo
    per_prefix: int = 1  # P2: perturbations of the second block for each of the first
    active_segments: tuple[int, ...] = (0,)
    scale_sha256: bytes = b""
    local_steps: int = 1
    local_learning_rate: float = 0.0
    seed: int = 0
    scalar_clip: float = 0.0
    scalar_noise_std: float = 0.0
    in_turn: bool = False  # nothing overlaps, see federation.proto
    first_round: int = 0  # of the stage, with chainfed
    exit_segment: int = 0  # with chainfed, see federation.proto; 0: the whole chain runs
    global_weight: float = 0.0
    chain: ChainSettings | None = None
    counts_as_head: bool = False  # by the devices' rule, whatever the segments; see head_share.py


@dataclass(frozen=True)
class CohortMember:
    """A client that may take part in a round, with what its check-in said."""

    client_id: str
    train_examples: int = 0
    max_scalars_per_round: int = 1 << 30
    max_head_scalars_per_round: int = 1 << 30
    min_batch_examples: int = 8
    guide_level: int = 0  # of compression, at which it receives guides; see compression.py


@dataclass(frozen=True)
class Step:
    batch_seed: int
    batch_examples: int
    directions: tuple[Direction, ...]
    local_learning_rate: float = 0.0
    update_seed: int = 0

    @property
    def scalars(self) -> int:
        return sum(direction.count for direction in self.directions)


@dataclass(frozen=True)
class ClientTask:
    client_id: str
    steps: tuple[Step, ...]
    guide_level: int = 0

    @property
    def scalars(self) -> int:
        return sum(step.scalars for step in self.steps)


@dataclass(frozen=True)
class RoundPlan:
    """Everything that a round sends out and that `apply` needs again. Tasks are sorted by client id.

    With `scores` above 0 the round asks each client for so many segment scores, and its tasks' steps name a
    batch without directions.
    """

    round: int
    version: int  # of the adapter that the tasks are about
    settings: RoundSettings
    tasks: tuple[ClientTask, ...]
    guides: Guides
    update_seed: int
    scores: int = 0

    def task(self, client_id: str) -> ClientTask | None:
        return next((task for task in self.tasks if task.client_id == client_id), None)

    def guide_of(self, task: ClientTask) -> Guide | None:
        """The guide that a task's directions name; None where they name none."""
        guide = self.guides.at(task.guide_level)
        named = any(item.guides for step in task.steps for item in step.directions)
        return guide if named else None

    def levels(self) -> tuple[int, ...]:
        """The levels of compression that tasks name, ascending."""
        return tuple(sorted({task.guide_level for task in self.tasks if self.guide_of(task) is not None}))

    def to_bytes(self) -> bytes:
        fields = {
            "round": self.round,
            "version": self.version,
            "settings": plain(asdict(self.settings)),
            "tasks": [plain(asdict(task)) for task in self.tasks],
            "update_seed": self.update_seed,
            "scores": self.scores,
            "guides": plain(asdict(self.guides)),
        }
        return pack(fields, {})

    @staticmethod
    def from_bytes(data: bytes) -> RoundPlan:
        """Raises ValueError when the bytes are damaged: the caller's store is."""
        fields, _ = unpack(data)
        guides = fields["guides"]
        settings = dict(fields["settings"])
        settings["active_segments"] = tuple(settings["active_segments"])
        settings["scale_sha256"] = bytes.fromhex(settings["scale_sha256"])
        if settings.get("chain") is not None:
            settings["chain"] = ChainSettings(**settings["chain"])
        return RoundPlan(
            round=fields["round"],
            version=fields["version"],
            settings=RoundSettings(**settings),
            tasks=tuple(_task(table) for table in fields["tasks"]),
            guides=Guides(
                bytes.fromhex(guides["base"]), tuple(guides["segments"]), guides["length"], guides["norm"]
            ),
            update_seed=fields["update_seed"],
            scores=fields.get("scores", 0),
        )


@dataclass(frozen=True)
class RoundState:
    """The adapter and all else that the next round depends on."""

    version: int
    adapter: Float32  # shape (n,)
    momentum: Float64 | None = None  # shape (n,), of a server optimiser with momentum
    statistics: Mapping[str, float] | None = None  # running means, see rectify
    chain: ChainState | None = None  # with chainfed, once the start is chosen
    estimate: Float64 | None = (
        None  # shape (n,), the devices' of the round before, where a stage may converge
    )

    def to_bytes(self) -> bytes:
        fields: dict[str, Any] = {"version": self.version, "statistics": self.statistics}
        if self.chain is not None:
            fields["chain"] = plain(asdict(self.chain))
        vectors = {"adapter": self.adapter, "momentum": self.momentum, "estimate": self.estimate}
        return pack(fields, {name: vector for name, vector in vectors.items() if vector is not None})

    @staticmethod
    def from_bytes(data: bytes) -> RoundState:
        """Raises ValueError when the bytes are damaged: the caller's store is."""
        fields, arrays = unpack(data)
        chain = None
        if fields.get("chain") is not None:
            chain = ChainState(**{**fields["chain"], "scores": tuple(fields["chain"]["scores"])})
        return RoundState(
            fields["version"],
            arrays["adapter"],
            arrays.get("momentum"),
            fields["statistics"],
            chain,
            arrays.get("estimate"),
        )


@dataclass(frozen=True)
class ClientReport:
    """What an accepted report says: `scalars` as they arrived, float32 values, step by step.

    `scores` are those of the segments, in a round that asks for them.
    """

    client_id: str
    scalars: tuple[float, ...]
    examples: int
    scores: tuple[float, ...] = ()


def _task(table: Mapping[str, Any]) -> ClientTask:
    steps = tuple(
        replace(Step(**step), directions=tuple(_direction(item) for item in step["directions"]))
        for step in table["steps"]
    )
    return ClientTask(table["client_id"], steps, table["guide_level"])


def _direction(table: Mapping[str, Any]) -> Direction:
    guides = tuple(GuideTerm(bytes.fromhex(g["guide_sha256"]), g["coefficient"]) for g in table["guides"])
    return Direction(**{**table, "guides": guides})
