"""Every error that CooperLLM raises on purpose.

    CooperLLMError
    |
    +-- InputError                     what the user handed in is not usable            (exit code 2)
    |   +-- OptionError                an option or a job's setting makes no sense
    |   +-- ExamplesError              a data file; carries path and line number
    |   +-- BundleError                a bundle's file is missing, truncated or altered
    |   |   +-- BundleVersionError     the bundle is of a format this release does not read
    |   |   +-- BundleTooLarge         it takes more memory than this device allows
    |   |   +-- LayoutMismatch         the adapter is not of the layout that it claims
    |   +-- PortInUse                  another process listens where the service should
    |
    +-- StoreError                     the folder that keeps a device's or a service's state
    |   +-- StoreFull                  no space left; nothing that was there is lost
    |   +-- StoreInUse                 another process holds the folder
    |
    +-- ServerError                    a call to the cloud
    |   +-- ServerUnreachable          nobody answers, after all repetitions
    |   +-- ServerRefused              the cloud says this request can never succeed
    |   |   +-- NotEnrolled            it does not know this device, or the device's clock is off
    |   |   +-- EnrollmentRefused      it wants an enrollment token, and this is not it
    |   |   +-- ProtocolMismatch       it speaks another version of the protocol
    |   |   +-- ScalarsMissing         it lacks scalars that went ahead of a report
    |   +-- TaskLost                   the lease expired or the task is unknown
    |   +-- VersionRefused             the report is about another adapter than the task
    |
    +-- ArtifactError                  downloaded bytes are not what their SHA-256 promised
    |
    +-- TaskRefused                    the device will not or cannot do this task; reported with a status
    |   +-- BudgetExceeded             it would disclose more than the device allows
    |   +-- NotEnoughExamples          too few examples for a batch that discloses nothing
    |   +-- DirectionBelowGrid         epsilon is too small for the adapter's grid
    |   +-- DirectionOutOfRange        epsilon or a guide is too large for the adapter's grid
    |   +-- LossNotFinite              the loss is NaN or infinite
    |   +-- UnsupportedTask            a kind of task, or a field of it, that this release does not know
    |   +-- BadArtifact                an adapter version, scale or guide failed its checks
    |       +-- BadVersion             the version alone: the device asks for a snapshot instead
    |
    +-- ProgramError                   the program could not be loaded or run
    +-- Stopped                        stop() was called

Each carries one line that says what to do, and the exit code that a command ends with. No message ever quotes
an example's text or label, except ExamplesError, which is shown to the person whose file it is and never
leaves the machine.
"""

from __future__ import annotations


class CooperLLMError(Exception):
    """Base of all errors raised on purpose. Catch this at the outermost level and show `str(error)`.

    The message is one line. `exit_code` is what a command-line program should end with.
    """

    exit_code = 1

    def __init__(self, message: str) -> None:
        self.message = " ".join(message.split())
        super().__init__(self.message)


class InputError(CooperLLMError):
    """Something the user handed in is not usable. Show the message; without a change it will not work."""

    exit_code = 2


class OptionError(InputError):
    """An option or a job's setting makes no sense. Show the message: it names it and says what it accepts."""


class ExamplesError(InputError):
    """A data file cannot be read. Show the message: it names the file and the line to correct.

    Attributes: `path` is the file as it was given; `line` counts from 1, and is None when the whole file is
    meant.
    """

    def __init__(self, message: str, path: str | None = None, line: int | None = None) -> None:
        self.path = path
        self.line = line
        where = "" if path is None else f"{path}: " if line is None else f"{path}, line {line}: "
        super().__init__(where + message)


class BundleError(InputError):
    """A bundle's file is missing, truncated or altered. Fetch or export the bundle again; never use it as it
    is.
    """


class BundleVersionError(BundleError):
    """The bundle has a format that this release does not read. Update CooperLLM, or export the bundle with
    this one.
    """


class BundleTooLarge(BundleError):
    """The bundle takes more memory than max_memory_bytes. Allow what the message names, or export a smaller
    one.
    """


class LayoutMismatch(BundleError):
    """An adapter, scale or manifest is not of the layout it claims. Use the bundle that it was made for."""


class PortInUse(InputError):
    """Another process listens on the port. Stop it or choose another port."""


class StoreError(CooperLLMError):
    """State on disk cannot be read or written. Correct what the message names and start again: nothing was
    lost.
    """


class StoreFull(StoreError):
    """No space is left for what had to be written. Free some and start again: what was stored before is
    intact.
    """


class StoreInUse(StoreError):
    """Another process uses this folder. Stop it, or give this one a folder of its own."""


class ServerError(CooperLLMError):
    """A call to the cloud failed. Which subclass it is says whether repeating can help."""


class ServerUnreachable(ServerError):
    """Nobody answered, though the call was repeated with pauses. Try again later: progress is kept."""


class ServerRefused(ServerError):
    """The cloud says that this request can never succeed. Do not repeat it; the message says what it objects
    to.
    """


class NotEnrolled(ServerRefused):
    """The cloud does not know this device, or the clocks differ by over 300 s. Set the clock, then enroll
    again.
    """


class EnrollmentRefused(ServerRefused):
    """The service wants an enrollment token, and this is not it. Ask its operator for one."""


class ProtocolMismatch(ServerRefused):
    """The cloud speaks another version of the protocol. Update the app."""


class ScalarsMissing(ServerRefused):
    """The cloud lacks scalars that went ahead of a report. Send the same report with all its scalars."""


class TaskLost(ServerError):
    """The lease expired or the task is unknown. Drop the report and check in again."""


class VersionRefused(ServerError):
    """The report is about another adapter than the task. Drop it, fetch a snapshot and check in again."""


class ArtifactError(CooperLLMError):
    """Downloaded bytes do not have the size or SHA-256 that was promised. They were dropped; fetch them
    again.
    """


class TaskRefused(CooperLLMError):
    """The device will not or cannot do this task. Report it with `status`, then check in again.

    `status` is the name of a ReportStatus in federation.proto, without its prefix. The message may leave the
    device, so it never says anything about an example.
    """

    status = "UNSUPPORTED_TASK"


class BudgetExceeded(TaskRefused):
    """The task would disclose more than the device allows. Ask for fewer scalars or larger batches."""

    status = "REFUSED_DISCLOSURE_BUDGET"


class NotEnoughExamples(TaskRefused):
    """The device has too few usable examples for this task. Give it work again when it has more."""

    status = "NOT_ENOUGH_EXAMPLES"


class DirectionBelowGrid(TaskRefused):
    """Rounding to the grid would change a direction by over 2 %. Use the epsilon that the message names."""

    status = "DIRECTION_BELOW_GRID"


class DirectionOutOfRange(TaskRefused):
    """A perturbation would be 2^23 grid steps or more. Use a smaller epsilon, scale or guide."""

    status = "DIRECTION_OUT_OF_RANGE"


class LossNotFinite(TaskRefused):
    """The loss became NaN or infinite. The adapter is as it was; the cloud should use a smaller learning
    rate.
    """

    status = "LOSS_NOT_FINITE"


class UnsupportedTask(TaskRefused):
    """The task has a kind or a field that this release does not know. Update the app."""

    status = "UNSUPPORTED_TASK"


class BadArtifact(TaskRefused):
    """An adapter version, scale or guide failed its checks. It was dropped; the cloud sends it again."""

    status = "BAD_ARTIFACT"


class BadVersion(BadArtifact):
    """An adapter version failed its checks. It was dropped; check in claiming none, and the cloud sends it
    whole.
    """


class ProgramError(CooperLLMError):
    """The program could not be loaded or run. Export the bundle again with the ExecuTorch that this release
    pins.
    """


class Stopped(CooperLLMError):
    """stop() was called while work was under way. The adapter is as it was; call again to go on."""
