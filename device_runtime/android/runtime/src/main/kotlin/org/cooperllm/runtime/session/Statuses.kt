package org.cooperllm.runtime.session

import io.grpc.Status
import org.cooperllm.runtime.CooperLLMError
import org.cooperllm.runtime.EnrollmentRefused
import org.cooperllm.runtime.NotEnrolled
import org.cooperllm.runtime.ProtocolMismatch
import org.cooperllm.runtime.ServerRefused
import org.cooperllm.runtime.ServerUnreachable
import org.cooperllm.runtime.TaskLost
import org.cooperllm.runtime.VersionRefused
import java.security.cert.CertificateException
import javax.net.ssl.SSLPeerUnverifiedException

/** What gRPC's statuses mean for a device: repeat the call, or which error of the tree to raise. */
internal object Statuses {
    private const val MOST_DETAIL_CHARACTERS = 200
    private const val MOST_CAUSES = 8

    private val REPEATABLE =
        setOf(
            Status.Code.UNAVAILABLE,
            Status.Code.RESOURCE_EXHAUSTED,
            Status.Code.ABORTED,
            Status.Code.CANCELLED, // a service that stops cancels what is under way
            Status.Code.INTERNAL,
            Status.Code.UNKNOWN,
        )

    /**
     * The error to raise for a status, by those that federation.proto lists.
     *
     * DEADLINE_EXCEEDED has two meanings: this device's patience ended ([timedOut]), or the lease of a report did. A
     * service may end a call by this device's deadline too, a moment before it ends here.
     */
    fun meaningOf(
        method: String,
        status: Status,
        timedOut: Boolean,
    ): Exception {
        distrustOf(status.cause)?.let { return it }
        val detail = oneLine(status.description.orEmpty())
        val isPatience = timedOut || method != "SendReport"
        val isRepeatable = status.code in REPEATABLE || (status.code == Status.Code.DEADLINE_EXCEEDED && isPatience)
        if (isRepeatable) {
            val reason = status.cause?.let { " (${oneLine(it.message ?: it.javaClass.simpleName)})" }.orEmpty()
            return Transient("${status.code.name.lowercase()}: $detail$reason", status.cause)
        }
        return meaningOf(method, status.code, "the service answered $method with ${status.code}: $detail")
    }

    /**
     * What to raise where a failure was one of trust, not of reach: the service's certificate is for another name, or of
     * an authority that is not trusted here. Null for every other failure.
     *
     * Repeating such a call at once cannot help, but another network may: some answer in every service's name.
     */
    fun distrustOf(failure: Throwable?): ServerUnreachable? {
        val reasons = generateSequence(failure) { it.cause }.take(MOST_CAUSES)
        val reason =
            reasons.firstOrNull { it is SSLPeerUnverifiedException || it is CertificateException } ?: return null
        val why = oneLine(reason.message.orEmpty().substringBefore('\n'))
        return ServerUnreachable(
            "the service's certificate is not trusted ($why): check the address, and name the authority that signed it",
            failure,
        )
    }

    private fun meaningOf(
        method: String,
        code: Status.Code,
        answer: String,
    ): CooperLLMError {
        val place = method to code
        return when {
            code == Status.Code.UNAUTHENTICATED -> {
                NotEnrolled("$answer: set this device's clock and enroll again")
            }

            place == "Enroll" to Status.Code.PERMISSION_DENIED -> {
                EnrollmentRefused("$answer: give the token that its operator hands out")
            }

            place == "CheckIn" to Status.Code.FAILED_PRECONDITION -> {
                ProtocolMismatch("$answer: update the app")
            }

            place == "SendReport" to Status.Code.FAILED_PRECONDITION -> {
                VersionRefused("$answer: fetch a snapshot and check in again")
            }

            place == "StreamGuides" to Status.Code.NOT_FOUND || place == "SendReport" to Status.Code.NOT_FOUND ||
                place == "SendReport" to Status.Code.DEADLINE_EXCEEDED -> {
                TaskLost("$answer: check in again")
            }

            else -> {
                ServerRefused("$answer: do not repeat it")
            }
        }
    }

    private fun oneLine(detail: String): String =
        detail
            .trim()
            .replace(Regex("\\s+"), " ")
            .take(MOST_DETAIL_CHARACTERS)
            .ifEmpty { "no detail" }
}
