package org.cooperllm.runtime.session

import org.cooperllm.protos.Artifact
import org.cooperllm.protos.ReportStatus
import org.cooperllm.protos.VersionUpdate
import org.cooperllm.runtime.BundleError
import org.cooperllm.runtime.CooperLLMError
import org.cooperllm.runtime.ExamplesError
import org.cooperllm.runtime.LayoutMismatch
import org.cooperllm.runtime.NotEnrolled
import org.cooperllm.runtime.ProgramError
import org.cooperllm.runtime.StoreError
import org.cooperllm.runtime.bundle.Bundle
import org.cooperllm.runtime.store.Kind
import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Test
import java.io.File
import java.nio.ByteBuffer
import java.nio.ByteOrder

/** What a device meets that is wrong: each time one typed error of one line, nothing lost, and the next turn goes on. */
class BadInputTest : InAWorld() {
    @Test
    fun `a bundle that the cloud altered is told to both sides, and a whole one is used`() {
        val whole = world.cloud.artifacts.toMap()
        val program = File(world.bundle.folder, "program.pte").readBytes()
        alter { data -> if (data.contentEquals(program)) data.also { it[100]++ } else data }
        assertRaises<BundleError>("the bundle again") { world.turn(world.task()) }
        assertEquals(listOf(ReportStatus.REPORT_STATUS_BAD_ARTIFACT), statuses())
        assertFalse(world.store.path(Kind.BUNDLES, world.bundle.sha256).exists())
        world.cloud.artifacts += whole
        assertGoesOn()
    }

    @Test
    fun `a manifest that describes another layout than its adapter has is a mismatch`() {
        val manifest = File(world.bundle.folder, Bundle.MANIFEST_NAME).readText()
        val sha256 = Regex("\"layout\": \\{[^}]*?\"sha256\": \"([0-9a-f]{64})").find(manifest)
        val wrong = manifest.replace(checkNotNull(sha256).groupValues[1], "0".repeat(64))
        val served = world.cloud.serve(wrong.toByteArray())
        val reply = world.task()
        val task = reply.task.toBuilder().setBundleSha256(served.sha256)
        assertRaises<LayoutMismatch>("layout") { world.turn(reply.toBuilder().setTask(task).build()) }
        assertEquals(listOf(ReportStatus.REPORT_STATUS_BAD_ARTIFACT), statuses())
        assertGoesOn()
    }

    @Test
    fun `a snapshot of another layout is refused and the adapter stays as it was`() {
        world.turn(world.task())
        val held = checkNotNull(world.store.readAdapter())
        val other =
            world
                .version()
                .toBuilder()
                .setVersion(2)
                .setSnapshot(snapshot("another", 7))
        assertEquals(Outcome(), world.turn(world.task(2, other.build()))) // checks in again, for a snapshot
        assertArrayEquals(held, Holdings.bytesOf(checkNotNull(world.holdings.engine).core.adapter))
        world.turn(world.task(2, other.build()))
        assertEquals(ReportStatus.REPORT_STATUS_BAD_ARTIFACT, statuses().last())
        assertGoesOn(3, world.version())
    }

    @Test
    fun `files of a bundle that were damaged on the disk are fetched again, those alone`() {
        world.turn(world.task())
        val folder = world.store.path(Kind.BUNDLES, world.bundle.sha256)
        File(folder, "program.pte").appendText("x")
        world.start()
        val fetched = world.cloud.traffic.downlinkBytes
        assertGoesOn(2, world.version(isHeld = true))
        assertEquals(100L * 4, world.cloud.traffic.downlinkBytes - fetched) // enroll, check-in, one file, report
    }

    @Test
    fun `a program that this runtime cannot open ends the turn, and another one is opened`() {
        world.openProgram = { throw ProgramError("${it.name} cannot be loaded: export it again") }
        repeat(2) { assertRaises<ProgramError>("export it again") { world.turn(world.task()) } }
        assertTrue(statuses().isEmpty())
        world.openProgram = { world.program }
        assertGoesOn()
    }

    @Test
    fun `an empty source is told by its status, one that fails by its error`() {
        world.close()
        val examples = world.examples.toList()
        world.examples.clear()
        world.start()
        world.turn(world.task())
        assertEquals(listOf(ReportStatus.REPORT_STATUS_NOT_ENOUGH_EXAMPLES), statuses())
        assertTrue(
            world.store.state.disclosed
                .isEmpty(),
        )
        world.start()
        world.failingSource = IllegalStateException("an example's text")
        val error = assertRaises<ExamplesError>("IllegalStateException") { world.turn() }
        assertFalse("an example's text" in error.message.orEmpty())
        world.failingSource = null
        world.examples += examples
        assertGoesOn(2, world.version(isHeld = true))
    }

    @Test
    fun `a disk that refuses a write ends the turn before anything leaves, and nothing is lost`() {
        world.turn(world.task())
        val before = world.store.state
        // A folder in the place of the file that is written first: the same path as on a full disk.
        val obstacle =
            File(
                world.store
                    .path(Kind.ADAPTERS, "0".repeat(64))
                    .parentFile.parentFile,
                "state.tmp",
            )
        assertTrue(obstacle.mkdir() && File(obstacle, "x").createNewFile())
        assertRaises<StoreError>("nothing was lost") { world.turn(world.task(2, world.version(isHeld = true))) }
        assertEquals(1, world.cloud.reports.size)
        assertEquals(before, world.store.state)
        obstacle.deleteRecursively()
        world.start()
        assertGoesOn(2, world.version(isHeld = true))
    }

    @Test
    fun `a clock that jumps moves no span and no pause`() {
        val jumps = mutableListOf(-86_400_000.0, 3.6e6, -7.2e6)
        world.beforeEvent = { if (jumps.isNotEmpty() && it.name == "phase") world.nowMs += jumps.removeAt(0) }
        world.turn(world.task())
        world.beforeEvent = {}
        val spans =
            world.cloud.reports
                .single()
                .timing.spansList
        assertTrue(spans.size >= 4 && spans.all { it.endMs >= it.startMs })
        assertEquals(Outcome(waitMs = 2000.0), world.turn(World.retry()))
        world.nowMs = -1e12
        assertGoesOn(2, world.version(isHeld = true))
    }

    @Test
    fun `a clock that the cloud does not accept is told after one more try, and set it goes on`() {
        world.turn(world.task())
        repeat(2) { world.cloud.refusals += NotEnrolled("the clock is off: set it and enroll again") }
        assertRaises<NotEnrolled>("set it") { world.turn() }
        assertEquals(2, world.cloud.enrolled) // once at the start, once more for a cloud that lost its memory
        assertGoesOn(2, world.version(isHeld = true))
    }

    private fun alter(change: (ByteArray) -> ByteArray) {
        for ((name, data) in world.cloud.artifacts.toMap()) world.cloud.artifacts[name] = change(data.copyOf())
    }

    /** A task is done and reported, whatever was before. */
    private fun assertGoesOn(
        round: Long = 1,
        update: VersionUpdate = world.version(),
    ) {
        val reports = world.cloud.reports.size
        world.turn(world.task(round, update))
        assertEquals(reports + 1, world.cloud.reports.size)
        assertEquals(ReportStatus.REPORT_STATUS_OK, statuses().last())
        assertEquals(listOf(4, 0), world.store.state.disclosed["$round"])
    }

    private fun statuses() = world.cloud.reports.map { it.status }

    /** A safetensors file with one float32 tensor of zeros. */
    private fun snapshot(
        name: String,
        count: Int,
    ): Artifact {
        val end = Float.SIZE_BYTES * count
        val header = """{"$name":{"dtype":"F32","shape":[$count],"data_offsets":[0,$end]}}""".toByteArray()
        val data = ByteBuffer.allocate(Long.SIZE_BYTES + header.size + end).order(ByteOrder.LITTLE_ENDIAN)
        return world.cloud.serve(data.putLong(header.size.toLong()).put(header).array())
    }

    private inline fun <reified T : CooperLLMError> assertRaises(
        words: String,
        crossinline call: () -> Unit,
    ): T {
        val error = assertThrows(T::class.java) { call() }
        assertTrue(error.message, words in error.message.orEmpty() && '\n' !in error.message.orEmpty())
        return error
    }
}
