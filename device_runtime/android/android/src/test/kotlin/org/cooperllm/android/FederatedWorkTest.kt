package org.cooperllm.android

import kotlinx.coroutines.CompletableDeferred
import kotlinx.coroutines.async
import kotlinx.coroutines.runBlocking
import org.cooperllm.executorch.ExecuTorchProgram
import org.cooperllm.runtime.FederatedDevice
import org.cooperllm.runtime.session.ServiceAddress
import org.junit.Assert.assertEquals
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder

internal class FederatedWorkTest {
    @get:Rule
    val folder = TemporaryFolder()

    @Test
    fun aDevicesTurnsAreAJobsWork() =
        runBlocking {
            // Nobody listens there: the device tries again and again, until it is stopped.
            val address = ServiceAddress("localhost:1")
            FederatedDevice(folder.newFolder(), address, { emptyList() }, ExecuTorchProgram).use { device ->
                val phase = CompletableDeferred<Any?>()
                val run =
                    TrainingRun({ device.asTrainingWork() }, { emptySet() }, { 0L }) {
                        phase.complete(it.fields["phase"])
                    }
                val end = async { run.run() }
                assertEquals("enroll", phase.await())
                run.stop()
                assertEquals(TrainingEnd.Stopped, end.await())
            }
        }
}
