package org.cooperllm.android

import android.os.BatteryManager
import android.os.PowerManager
import org.cooperllm.android.Condition.BATTERY
import org.cooperllm.android.Condition.CHARGING
import org.cooperllm.android.Condition.COOL
import org.cooperllm.android.Condition.IDLE
import org.cooperllm.android.Condition.UNMETERED
import org.junit.Assert.assertEquals
import org.junit.Test
import org.junit.runner.RunWith
import org.robolectric.RobolectricTestRunner
import org.robolectric.RuntimeEnvironment
import org.robolectric.annotation.Config

@RunWith(RobolectricTestRunner::class)
@Config(sdk = [35], application = TestApp::class)
internal class DeviceConditionsTest {
    private val context = RuntimeEnvironment.getApplication()
    private val phone = TestPhone(context)
    private var elapsedMs = 5_000L
    private val conditions = conditions(apiLevel = 35)

    private fun conditions(apiLevel: Int) =
        DeviceConditions(context, Condition.entries.toSet(), { elapsedMs }, apiLevel)

    @Test
    fun aPhoneThatLiesAroundWorks() {
        val all = mapOf(COOL to true, CHARGING to false, BATTERY to true, IDLE to true, UNMETERED to true)
        assertEquals(all, conditions.now())
        assertEquals(emptySet<Condition>(), DeviceConditions(context).missing())
    }

    @Test
    fun batteryWantsThirtyPercentOrACharger() {
        phone.battery(percent = 29)
        assertEquals(false, conditions.now()[BATTERY])
        phone.battery(percent = 30)
        assertEquals(true, conditions.now()[BATTERY])
        phone.battery(percent = 5, status = BatteryManager.BATTERY_STATUS_CHARGING)
        assertEquals(true, conditions.now()[BATTERY])
    }

    @Test
    fun aBatteryThatTheSystemCallsLowIsNotEnough() {
        phone.battery(percent = 50, isLow = true)
        assertEquals(false, conditions.now()[BATTERY])
        phone.battery(percent = 10, isLow = true, status = BatteryManager.BATTERY_STATUS_CHARGING)
        assertEquals(false, conditions.now()[BATTERY])
    }

    @Test
    fun chargingIsWhatDoesNotDischarge() {
        phone.battery(status = BatteryManager.BATTERY_STATUS_FULL)
        assertEquals(true, conditions.now()[CHARGING])
        phone.battery(status = BatteryManager.BATTERY_STATUS_NOT_CHARGING, isPlugged = true)
        assertEquals(true, conditions.now()[CHARGING])
        phone.battery(status = BatteryManager.BATTERY_STATUS_NOT_CHARGING)
        assertEquals(false, conditions.now()[CHARGING])
        phone.battery(status = BatteryManager.BATTERY_STATUS_UNKNOWN)
        assertEquals(null, conditions.now()[CHARGING])
    }

    @Test
    fun coolIsBelowModerate() {
        phone.thermal(PowerManager.THERMAL_STATUS_MODERATE)
        assertEquals(false, conditions.now()[COOL])
        phone.thermal(PowerManager.THERMAL_STATUS_LIGHT)
        assertEquals(true, conditions.now()[COOL])
    }

    @Test
    fun beforeAndroid10TheBatterysTemperatureCounts() {
        val old = conditions(apiLevel = 28)
        phone.thermal(PowerManager.THERMAL_STATUS_SEVERE)
        phone.battery(temperatureTenths = 399)
        assertEquals(true, old.now()[COOL])
        phone.battery(temperatureTenths = 400)
        assertEquals(false, old.now()[COOL])
        phone.battery(health = BatteryManager.BATTERY_HEALTH_OVERHEAT)
        assertEquals(false, old.now()[COOL])
    }

    @Test
    fun idleIsWithTheScreenOff() {
        phone.screen(isOn = true)
        assertEquals(false, conditions.now()[IDLE])
    }

    @Test
    fun unmeteredIsWhatTheNetworkSays() {
        phone.network(isMetered = true)
        assertEquals(false, conditions.now()[UNMETERED])
        phone.noNetwork()
        assertEquals(null, conditions.now()[UNMETERED])
    }

    @Test
    fun thePhoneIsAskedOnceASecond() {
        assertEquals(setOf(CHARGING), conditions.missing())
        phone.screen(isOn = true)
        elapsedMs += 999
        assertEquals(setOf(CHARGING), conditions.missing())
        elapsedMs += 1
        assertEquals(setOf(CHARGING, IDLE), conditions.missing())
    }
}
