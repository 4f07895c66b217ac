package org.cooperllm.runtime

/**
 * Base of every error that CooperLLM raises on purpose. Catch this at the outermost place.
 *
 * The tree has the names of the Python device's (device_runtime/errors.py), so that a report, a log and a page of the
 * documentation mean the same on every device. The message is one line that says what to do, and never quotes an
 * example's text or label.
 */
public sealed class CooperLLMError(
    message: String,
    cause: Throwable? = null,
) : Exception(message.trim().replace(Regex("\\s+"), " "), cause)

/** Something that the app handed in is not usable. Without a change it will not work. */
public sealed class InputError(
    message: String,
    cause: Throwable? = null,
) : CooperLLMError(message, cause)

/** An option makes no sense. The message names it and says what it accepts: correct the app. */
public class OptionError(
    message: String,
) : InputError(message)

/** The app's example source cannot be used. The message says what is wrong with it: correct the source. */
public class ExamplesError(
    message: String,
    cause: Throwable? = null,
) : InputError(message, cause)

/** A bundle's file is missing, truncated or altered. Fetch the bundle again; never use it as it is. */
public open class BundleError(
    message: String,
    cause: Throwable? = null,
) : InputError(message, cause)

/** The bundle has a format that this release does not read. Update the app. */
public class BundleVersionError(
    message: String,
) : BundleError(message)

/** The bundle takes more memory than the app allows. Allow what the message names, or offer a smaller bundle. */
public class BundleTooLarge(
    message: String,
) : BundleError(message)

/** An adapter, scale or manifest is not of the layout that it claims. Use the bundle that it was made for. */
public class LayoutMismatch(
    message: String,
    cause: Throwable? = null,
) : BundleError(message, cause)

/** State on disk cannot be read or written. Correct what the message names and start again: nothing was lost. */
public open class StoreError(
    message: String,
    cause: Throwable? = null,
) : CooperLLMError(message, cause)

/** No space is left for what had to be written. Free some and start again: what was stored before is intact. */
public class StoreFull(
    message: String,
    cause: Throwable? = null,
) : StoreError(message, cause)

/** Another process uses the folder. Stop it, or give this one a folder of its own. */
public class StoreInUse(
    message: String,
) : StoreError(message)

/** A call to the cloud failed. Which subclass it is says whether repeating can help. */
public sealed class ServerError(
    message: String,
    cause: Throwable? = null,
) : CooperLLMError(message, cause)

/** Nobody answered, though the call was repeated with pauses. Try again later: progress is kept. */
public class ServerUnreachable(
    message: String,
    cause: Throwable? = null,
) : ServerError(message, cause)

/** The cloud says that this request can never succeed. Do not repeat it; the message says what it objects to. */
public open class ServerRefused(
    message: String,
    cause: Throwable? = null,
) : ServerError(message, cause)

/** The cloud does not know this device, or the clocks differ by over 300 s. Set the clock, then enroll again. */
public class NotEnrolled(
    message: String,
    cause: Throwable? = null,
) : ServerRefused(message, cause)

/** The service wants an enrollment token, and this is not it. Ask its operator for one. */
public class EnrollmentRefused(
    message: String,
    cause: Throwable? = null,
) : ServerRefused(message, cause)

/** The cloud speaks another version of the protocol. Update the app. */
public class ProtocolMismatch(
    message: String,
    cause: Throwable? = null,
) : ServerRefused(message, cause)

/** The lease expired or the task is unknown. Drop the report and check in again. */
public class TaskLost(
    message: String,
    cause: Throwable? = null,
) : ServerError(message, cause)

/** The report is about another adapter than the task. Drop it, fetch a snapshot and check in again. */
public class VersionRefused(
    message: String,
    cause: Throwable? = null,
) : ServerError(message, cause)

/** Downloaded bytes do not have the size or SHA-256 that was promised. They were dropped; fetch them again. */
public class ArtifactError(
    message: String,
    cause: Throwable? = null,
) : CooperLLMError(message, cause)

/**
 * The device will not or cannot do this task. Report it with [status], then check in again.
 *
 * [status] is the name of a ReportStatus in federation.proto without its prefix. The message may leave the device, so
 * it never says anything about an example.
 */
public sealed class TaskRefused(
    public val status: String,
    message: String,
    cause: Throwable? = null,
) : CooperLLMError(message, cause)

/** The task would disclose more than the device allows. Ask for fewer scalars or larger batches. */
public class BudgetExceeded(
    message: String,
) : TaskRefused("REFUSED_DISCLOSURE_BUDGET", message)

/** The device has too few usable examples for this task. Give it work again when it has more. */
public class NotEnoughExamples(
    message: String,
) : TaskRefused("NOT_ENOUGH_EXAMPLES", message)

/**
 * Rounding to the grid would change a direction by over 2 %. Use what it names.
 *
 * [epsilon] would do with the exponents as they are, and so would exponents higher by [exponentIncrease] with epsilon
 * as it is. Both are null when no value would do without leaving the range.
 */
public class DirectionBelowGrid(
    message: String,
    public val epsilon: Double? = null,
    public val exponentIncrease: Int? = null,
) : TaskRefused("DIRECTION_BELOW_GRID", message)

/** A perturbation would be 2^23 grid steps or more. Use a smaller epsilon, scale or guide. */
public class DirectionOutOfRange(
    message: String,
) : TaskRefused("DIRECTION_OUT_OF_RANGE", message)

/** The loss became NaN or infinite. The adapter is as it was; the cloud should use a smaller learning rate. */
public class LossNotFinite(
    message: String,
) : TaskRefused("LOSS_NOT_FINITE", message)

/** The task has a kind or a field that this release does not know, or one that makes no sense. Update the app. */
public class UnsupportedTask(
    message: String,
) : TaskRefused("UNSUPPORTED_TASK", message)

/** An adapter version, scale or guide failed its checks. It was dropped; the cloud sends it again. */
public open class BadArtifact(
    message: String,
    cause: Throwable? = null,
) : TaskRefused("BAD_ARTIFACT", message, cause)

/** An adapter version failed its checks. It was dropped; check in claiming none, and the cloud sends it whole. */
public class BadVersion(
    message: String,
    cause: Throwable? = null,
) : BadArtifact(message, cause)

/** The program could not be loaded or run. Export the bundle with the ExecuTorch that this release names. */
public class ProgramError(
    message: String,
    cause: Throwable? = null,
) : CooperLLMError(message, cause)

/** Work was stopped while it was under way. The adapter is as it was; call again to go on. */
public class Stopped(
    message: String,
) : CooperLLMError(message)
