package org.cooperllm.android

import android.content.Context
import android.content.Intent
import android.content.IntentFilter
import android.net.ConnectivityManager
import android.net.NetworkCapabilities
import android.os.BatteryManager
import android.os.Build
import android.os.PowerManager
import android.os.SystemClock

/**
 * What the phone's own services say about each [Condition].
 *
 * A condition that the phone does not tell is unknown, and an unknown condition does not hold. Safe to ask from any
 * thread.
 *
 * @param required the conditions that [missing] looks at
 */
public class DeviceConditions internal constructor(
    private val context: Context,
    private val required: Set<Condition>,
    private val elapsedMs: () -> Long,
    private val apiLevel: Int,
) {
    public constructor(context: Context, required: Set<Condition> = Condition.DEFAULT) :
        this(context.applicationContext, required, SystemClock::elapsedRealtime, Build.VERSION.SDK_INT)

    private var checkedMs: Long? = null
    private var lastMissing: Set<Condition> = emptySet()

    /** Whether each condition holds at this moment; null: the phone does not tell. */
    public fun now(): Map<Condition, Boolean?> {
        // Sticky: the last one is there at once, and nothing stays registered.
        val battery = context.registerReceiver(null, IntentFilter(Intent.ACTION_BATTERY_CHANGED))
        return mapOf(
            Condition.COOL to isCool(battery),
            Condition.CHARGING to battery?.let(::isCharging),
            Condition.BATTERY to battery?.let(::isBatteryEnough),
            Condition.IDLE to power?.isInteractive?.not(),
            Condition.UNMETERED to isUnmetered(),
        )
    }

    /** The required conditions that do not hold, as of at most a second ago. */
    @Synchronized
    public fun missing(): Set<Condition> {
        val nowMs = elapsedMs()
        val checked = checkedMs
        if (checked == null || nowMs - checked >= CHECK_INTERVAL_MS) {
            val found = now()
            lastMissing = required.filterTo(mutableSetOf()) { found[it] != true }
            checkedMs = nowMs
        }
        return lastMissing
    }

    private val power get() = context.getSystemService(PowerManager::class.java)

    private fun isCool(battery: Intent?): Boolean? {
        if (apiLevel >= Build.VERSION_CODES.Q) return power?.let(::isBelowModerate)
        val tenths = battery?.getIntExtra(BatteryManager.EXTRA_TEMPERATURE, UNKNOWN) ?: return null
        val health = battery.getIntExtra(BatteryManager.EXTRA_HEALTH, BatteryManager.BATTERY_HEALTH_UNKNOWN)
        if (health == BatteryManager.BATTERY_HEALTH_OVERHEAT) return false
        return if (tenths == UNKNOWN) null else tenths < WARM_TENTHS
    }

    @NewerThanMinSdk
    private fun isBelowModerate(manager: PowerManager) =
        manager.currentThermalStatus < PowerManager.THERMAL_STATUS_MODERATE

    private fun isCharging(battery: Intent): Boolean? =
        when (battery.getIntExtra(BatteryManager.EXTRA_STATUS, UNKNOWN)) {
            BatteryManager.BATTERY_STATUS_DISCHARGING -> false

            BatteryManager.BATTERY_STATUS_CHARGING,
            BatteryManager.BATTERY_STATUS_FULL,
            -> true

            // Held at its level by the charger, or without one: the plug says which.
            BatteryManager.BATTERY_STATUS_NOT_CHARGING -> battery.getIntExtra(BatteryManager.EXTRA_PLUGGED, 0) != 0

            else -> null
        }

    private fun isBatteryEnough(battery: Intent): Boolean? {
        if (battery.getBooleanExtra(BatteryManager.EXTRA_BATTERY_LOW, false)) return false
        if (isCharging(battery) == true) return true
        val level = battery.getIntExtra(BatteryManager.EXTRA_LEVEL, UNKNOWN)
        val scale = battery.getIntExtra(BatteryManager.EXTRA_SCALE, UNKNOWN)
        return if (level < 0 || scale <= 0) null else level * PERCENT >= scale * ENOUGH_BATTERY_PERCENT
    }

    /** Null where no network is there: what cannot be reached costs nothing, but is not known either. */
    private fun isUnmetered(): Boolean? {
        val networks = context.getSystemService(ConnectivityManager::class.java) ?: return null
        val found = networks.activeNetwork?.let(networks::getNetworkCapabilities) ?: return null
        return found.hasCapability(NetworkCapabilities.NET_CAPABILITY_NOT_METERED)
    }

    internal companion object {
        const val CHECK_INTERVAL_MS = 1_000L
        const val ENOUGH_BATTERY_PERCENT = 30
        private const val PERCENT = 100
        private const val WARM_TENTHS = 400
        private const val UNKNOWN = Int.MIN_VALUE
    }
}
