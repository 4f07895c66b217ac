package org.cooperllm.demo

import kotlinx.coroutines.flow.Flow
import org.cooperllm.runtime.Disclosure
import org.cooperllm.runtime.FederatedDevice
import org.cooperllm.runtime.session.Event
import org.cooperllm.runtime.session.Outcome
import java.io.Closeable

/** What the app uses of a [FederatedDevice]; each function raises what the device's does. */
internal interface Participant : Closeable {
    val progress: Flow<Event>

    suspend fun runOnce(): Outcome

    /** The places of texts, in their order. */
    suspend fun predict(texts: List<String>): List<String>

    suspend fun refreshExamples()

    fun disclosures(): List<Disclosure>

    suspend fun forget()
}

internal class DeviceParticipant(
    private val device: FederatedDevice,
) : Participant {
    override val progress: Flow<Event> get() = device.progress

    override suspend fun runOnce(): Outcome = device.runOnce()

    override suspend fun predict(texts: List<String>): List<String> = device.predict(texts).map { it.label }

    override suspend fun refreshExamples() = device.refreshExamples()

    override fun disclosures(): List<Disclosure> = device.disclosures()

    override suspend fun forget() = device.forget()

    override fun close() = device.close()
}
