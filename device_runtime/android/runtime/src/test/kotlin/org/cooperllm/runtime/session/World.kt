package org.cooperllm.runtime.session

import com.google.protobuf.ByteString
import kotlinx.coroutines.runBlocking
import org.cooperllm.protos.CheckInReply
import org.cooperllm.protos.Direction
import org.cooperllm.protos.DirectionsTask
import org.cooperllm.protos.EvaluateTask
import org.cooperllm.protos.RetryWindow
import org.cooperllm.protos.ScoreSegmentsTask
import org.cooperllm.protos.Step
import org.cooperllm.protos.Task
import org.cooperllm.protos.Unchanged
import org.cooperllm.protos.VersionUpdate
import org.cooperllm.runtime.bundle.Bundle
import org.cooperllm.runtime.bundle.GoldenBundle
import org.cooperllm.runtime.program.Program
import org.cooperllm.runtime.program.ProgramOpener
import org.cooperllm.runtime.store.Store
import org.cooperllm.runtime.text.HuggingFaceTokens
import org.cooperllm.runtime.update.SmallProgram
import org.cooperllm.runtime.zo.AdapterVersion
import java.io.Closeable
import java.io.File

/** One device with a scripted cloud, the golden bundle on a small program, and a clock of its own. */
internal class World(
    private val folder: File,
    private val limits: Limits = Limits(),
    private val conditions: Conditions = Conditions { emptyList() },
    private val budget: Budget = Budget(64),
) : Closeable {
    val cloud = FakeCloud()
    val events = mutableListOf<Event>()
    val examples =
        List(
            300,
        ) { Example("w${it % 7} w${it / 7} $it", listOf("left", "right", "up")[it % 3]) }.toMutableList()
    var goOn: () -> Boolean = { true }
    val program = SmallProgram()
    var openProgram: (File) -> Program = { program }
    private val opener = ProgramOpener { file, _ -> openProgram(file) }
    var beforeEvent: (Event) -> Unit = {}

    /** Raised by the source of examples instead of an answer. */
    var failingSource: Exception? = null
    val bundle: Bundle
    var store: Store = Store(File(folder, "store"))
        private set
    lateinit var holdings: Holdings
        private set
    lateinit var session: Session
        private set
    var nowMs = 1000.0
    lateinit var watch: Watch
        private set

    /** The monotonic clock; a pause moves it. */
    var elapsedMs = 0.0
    var pause: (Double) -> Unit = { elapsedMs += it }
    private var ids = 0

    init {
        val source = GoldenBundle.copyTo(File(folder, "bundle").also { it.mkdirs() })
        val manifest = File(source, Bundle.MANIFEST_NAME)
        val small =
            manifest
                .readText()
                .replace("\"batch_examples\": 4", "\"batch_examples\": ${SmallProgram.ROWS}")
                .replace("\"hidden_size\": 16", "\"hidden_size\": ${SmallProgram.WIDTH}")
        manifest.writeText(small)
        bundle = Bundle.open(source)
        source.listFiles().orEmpty().forEach { cloud.serve(it.readBytes()) }
        open()
    }

    /** Another process: nothing is known but what the store has. */
    fun start() {
        store.close()
        store = Store(File(folder, "store"))
        open()
    }

    /** One turn; the cloud's next answers to check-ins are these. */
    fun turn(vararg replies: CheckInReply): Outcome {
        cloud.replies += replies
        return runBlocking { session.turn() }
    }

    /** The events since the last look, in short; without those of progress, whose number is a matter of speed. */
    fun told(): List<String> = events.filter { it.name != "progress" }.map(::short).also { events.clear() }

    override fun close() = store.close()

    private fun open() {
        holdings = Holdings(store, cloud) { Engine(it, opener, ::HuggingFaceTokens, threads = 1, limits, folder) }
        val surroundings =
            Surroundings(
                clockMs = { nowMs.also { nowMs += 1000 } },
                uniform = { low, high -> (low + high) / 2 },
                gauss = { 0.0 },
                watch = Watch(limits, conditions, { elapsedMs }, { goOn() }).also { watch = it },
                pause = { pause(it) },
                newId = { "report-${++ids}" },
            )
        session =
            Session(cloud, store, holdings, { given() }, surroundings, budget) {
                beforeEvent(it)
                events += it
            }
    }

    private fun given(): List<Example> {
        failingSource?.let { throw it }
        return examples
    }

    private fun short(event: Event): String =
        when (event.name) {
            "phase" -> event.fields.getValue("phase").toString()
            "version" -> "version ${event.fields["version"]} ${event.fields["form"]}"
            "report" -> "report ${event.fields["status"]}"
            else -> event.name
        }

    /** The update to the bundle's adapter as version 1, by snapshot or, for a device that holds it, unchanged. */
    fun version(isHeld: Boolean = false): VersionUpdate {
        val sha256 = ByteString.copyFrom(AdapterVersion.sha256(bundle.adapter))
        val update = VersionUpdate.newBuilder().setVersion(1).setAdapterSha256(sha256)
        if (isHeld) return update.setUnchanged(Unchanged.getDefaultInstance()).build()
        return update.setSnapshot(cloud.serve(File(bundle.folder, "adapter.safetensors").readBytes())).build()
    }

    /** A task of a round: four directions in all segments, unless told otherwise. */
    fun task(
        round: Long = 1,
        update: VersionUpdate = version(),
        directions: DirectionsTask = directions(),
    ): CheckInReply = reply(of(round, update).setDirections(directions))

    fun evaluation(
        round: Long,
        update: VersionUpdate,
    ): CheckInReply = reply(of(round, update).setEvaluate(EvaluateTask.getDefaultInstance()))

    fun scores(
        round: Long,
        batchExamples: Int,
        update: VersionUpdate,
    ): CheckInReply =
        reply(
            of(
                round,
                update,
            ).setScoreSegments(ScoreSegmentsTask.newBuilder().setBatchSeed(4).setBatchExamples(batchExamples)),
        )

    private fun of(
        round: Long,
        update: VersionUpdate,
    ): Task.Builder =
        Task
            .newBuilder()
            .setTaskId("task-$round")
            .setRound(round)
            .setBundleSha256(ByteString.copyFrom(hexBytes(bundle.sha256)))
            .setUpdate(update)

    private fun reply(task: Task.Builder): CheckInReply = CheckInReply.newBuilder().setTask(task).build()

    companion object {
        fun directions(
            count: Int = 4,
            batchExamples: Int = 8,
        ): DirectionsTask {
            val direction =
                Direction
                    .newBuilder()
                    .setSeed(3)
                    .setCount(count)
                    .setIsotropicScale(1.0)
            val step =
                Step
                    .newBuilder()
                    .setBatchSeed(5)
                    .setBatchExamples(batchExamples)
                    .addDirections(direction)
            return DirectionsTask
                .newBuilder()
                .setEpsilon(0.01)
                .addAllActiveSegments(listOf(0, 1, 2))
                .addSteps(step)
                .build()
        }

        fun retry(): CheckInReply =
            CheckInReply.newBuilder().setRetry(RetryWindow.newBuilder().setMinMs(1000).setMaxMs(3000)).build()
    }
}
