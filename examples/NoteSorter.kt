package notes

import org.cooperllm.executorch.ExecuTorchProgram
import org.cooperllm.runtime.FederatedDevice
import org.cooperllm.runtime.session.Example
import org.cooperllm.runtime.session.ExampleSource
import org.cooperllm.runtime.session.ServiceAddress
import java.io.File

/** Sorts notes, and learns from the user's corrections: numbers leave the phone, notes do not. */
class NoteSorter(folder: File, cloud: ServiceAddress, corrections: () -> Map<String, String>) {
    private val examples = ExampleSource { corrections().map { (note, label) -> Example(note, label) } }
    private val device = FederatedDevice(folder, cloud, examples, ExecuTorchProgram)

    suspend fun learn() = device.runOnce() // or in the background: TrainingSchedule.schedule(context)
    suspend fun labelOf(note: String) = device.predict(listOf(note)).single().label
    suspend fun forgetMe() = device.forget()
    fun close() = device.close()
}
