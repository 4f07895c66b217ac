package org.cooperllm.runtime.zo

import java.lang.management.ManagementFactory

/**
 * Nanoseconds a parameter of the kernels on a large adapter, and the heap that one call takes: a program, no test.
 *
 *     java -cp runtime/target/classes:runtime/target/test-classes:… org.cooperllm.runtime.zo.KernelSpeedKt [n] [rounds]
 */
internal fun main(arguments: Array<String>) {
    val parameters = arguments.getOrElse(0) { "10000000" }.toInt()
    val rounds = arguments.getOrElse(1) { "15" }.toInt()
    val layout = Layout(listOf(LayoutTensor("w", 0, intArrayOf(parameters), 0, 20)))
    val adapter = Adapter(layout, FloatVector.allocate(parameters))
    val ones = FloatVector.of(FloatArray(parameters) { 1.0f })
    val noise = Direction(7)
    val guided = Direction(7, 1.0, ones, listOf(GuideTerm(Guide.of(layout, mapOf(0 to ones)), 0.5)))
    val step = Update(EPSILON, 9, listOf(noise), doubleArrayOf(1e-6))
    val work =
        mapOf(
            "perturb" to { adapter.perturb(noise, EPSILON, 1) },
            "restore" to { adapter.perturb(noise, EPSILON, -1) },
            "guided" to { adapter.perturb(guided, EPSILON, 1) },
            "unguided" to { adapter.perturb(guided, EPSILON, -1) },
            "check" to { adapter.check(noise, EPSILON) },
            "update" to { adapter.apply(step) },
            "hash" to { AdapterVersion.sha256(adapter.values) },
        )
    val threads = ManagementFactory.getThreadMXBean() as com.sun.management.ThreadMXBean
    for ((name, action) in work) {
        var least = Long.MAX_VALUE
        var bytes = 0L
        repeat(rounds) {
            val allocated = threads.currentThreadAllocatedBytes
            val begin = System.nanoTime()
            action()
            least = minOf(least, System.nanoTime() - begin)
            bytes = threads.currentThreadAllocatedBytes - allocated
        }
        println("%-10s %7.2f ns a parameter %8d heap bytes a call".format(name, least.toDouble() / parameters, bytes))
    }
}

private const val EPSILON = 1e-3
