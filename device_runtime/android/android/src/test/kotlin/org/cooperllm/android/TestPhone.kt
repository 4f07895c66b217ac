package org.cooperllm.android

import android.app.Application
import android.content.Context
import android.content.Intent
import android.net.ConnectivityManager
import android.net.NetworkCapabilities
import android.os.BatteryManager
import android.os.PowerManager
import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.MutableSharedFlow
import org.cooperllm.runtime.session.Event
import org.cooperllm.runtime.session.Outcome
import org.robolectric.Shadows.shadowOf
import org.robolectric.shadows.ShadowNetworkCapabilities
import java.util.concurrent.LinkedBlockingQueue
import java.util.concurrent.TimeUnit

/** A phone that a test brings into the state it wants; at first every condition holds. */
internal class TestPhone(
    private val context: Context,
) {
    init {
        battery()
        screen(isOn = false)
        thermal(PowerManager.THERMAL_STATUS_LIGHT)
        network(isMetered = false)
    }

    @Suppress("DEPRECATION") // As the system does it.
    fun battery(
        percent: Int = 80,
        status: Int = BatteryManager.BATTERY_STATUS_DISCHARGING,
        isLow: Boolean = false,
        isPlugged: Boolean = false,
        temperatureTenths: Int = 250,
        health: Int = BatteryManager.BATTERY_HEALTH_GOOD,
    ) = context.sendStickyBroadcast(
        Intent(Intent.ACTION_BATTERY_CHANGED)
            .putExtra(BatteryManager.EXTRA_LEVEL, percent * 2)
            .putExtra(BatteryManager.EXTRA_SCALE, 200)
            .putExtra(BatteryManager.EXTRA_STATUS, status)
            .putExtra(BatteryManager.EXTRA_BATTERY_LOW, isLow)
            .putExtra(BatteryManager.EXTRA_PLUGGED, if (isPlugged) BatteryManager.BATTERY_PLUGGED_AC else 0)
            .putExtra(BatteryManager.EXTRA_TEMPERATURE, temperatureTenths)
            .putExtra(BatteryManager.EXTRA_HEALTH, health),
    )

    fun screen(isOn: Boolean) = shadowOf(context.service(PowerManager::class.java)).turnScreenOn(isOn)

    fun thermal(status: Int) = shadowOf(context.service(PowerManager::class.java)).setCurrentThermalStatus(status)

    fun network(isMetered: Boolean) {
        val networks = context.service(ConnectivityManager::class.java)
        val found = ShadowNetworkCapabilities.newInstance()
        if (!isMetered) shadowOf(found).addCapability(NetworkCapabilities.NET_CAPABILITY_NOT_METERED)
        shadowOf(networks).setNetworkCapabilities(networks.activeNetwork, found)
    }

    fun noNetwork() = shadowOf(context.service(ConnectivityManager::class.java)).setDefaultNetworkActive(false)
}

/** Work whose turns a test scripts: each turn runs the next of [turns]. */
internal class ScriptedWork(
    private val turns: MutableList<suspend ScriptedWork.() -> Outcome>,
) : TrainingWork {
    constructor(vararg turns: suspend ScriptedWork.() -> Outcome) : this(turns.toMutableList())

    private val events = MutableSharedFlow<Event>(extraBufferCapacity = 16)
    override val progress: Flow<Event> = events
    var begun = 0
        private set

    suspend fun phase(name: String) = events.emit(Event("phase", 0.0, mapOf("phase" to name)))

    override suspend fun runOnce(): Outcome {
        begun++
        return turns.removeAt(0).invoke(this)
    }
}

/** The application class of an app under test. */
internal class TestApp :
    Application(),
    TrainingHost {
    var open: () -> TrainingWork = { error("no work was expected") }
    private val ends = LinkedBlockingQueue<TrainingEnd>()

    override fun trainingWork() = open()

    override fun onTrainingEnd(end: TrainingEnd) = ends.put(end)

    /** The next end of a job. */
    fun end(): TrainingEnd = ends.poll(30, TimeUnit.SECONDS) ?: error("no job has ended")
}

internal val FINISHED = Outcome(isFinished = true)

internal fun <T : Any> Context.service(type: Class<T>): T = checkNotNull(getSystemService(type))
