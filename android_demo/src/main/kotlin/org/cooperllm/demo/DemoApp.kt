package org.cooperllm.demo

import android.app.Application
import android.content.Context
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.SupervisorJob
import kotlinx.coroutines.launch
import org.cooperllm.android.Condition
import org.cooperllm.android.DeviceConditions
import org.cooperllm.android.KeystoreKeys
import org.cooperllm.android.TrainingHost
import org.cooperllm.android.TrainingSchedule
import org.cooperllm.android.TrainingWork
import org.cooperllm.executorch.ExecuTorchProgram
import org.cooperllm.runtime.FederatedDevice
import org.cooperllm.runtime.session.DeviceKeys
import org.cooperllm.runtime.session.ServiceAddress
import java.io.File

/** The app: one [Learner] for the whole process, for the screens as well as for a job. */
open class DemoApp :
    Application(),
    TrainingHost {
    internal val scope = CoroutineScope(SupervisorJob() + Dispatchers.Default)

    internal val learner by lazy {
        // With the app open the phone is in use.
        val conditions = DeviceConditions(this, requiredConditions - Condition.IDLE)
        Learner(NotebookFile(File(filesDir, "notebook.json")), JobSchedule(this), scope, conditions::missing, ::open)
    }

    /** Where the service is. */
    protected open val address: ServiceAddress get() = ServiceAddress(getString(R.string.service))

    /** Where the device's key lies; null: in the device's folder. */
    protected open val keys: DeviceKeys? get() = KeystoreKeys()

    override fun onCreate() {
        super.onCreate()
        scope.launch { learner.begin() }
    }

    override fun trainingWork(): TrainingWork = learner.work

    private fun open(isOnline: Boolean): Participant =
        DeviceParticipant(
            FederatedDevice(
                File(filesDir, "device"),
                if (isOnline) address else null,
                { learner.notebook.value.examples },
                ExecuTorchProgram,
                keys = keys,
            ),
        )

    private class JobSchedule(
        private val context: Context,
    ) : Schedule {
        override fun begin() = TrainingSchedule.schedule(context)

        override fun end() = TrainingSchedule.cancel(context)
    }
}
