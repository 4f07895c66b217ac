package org.cooperllm.runtime.zo

import java.io.File
import java.lang.management.ManagementFactory
import java.nio.ByteBuffer
import java.nio.ByteOrder

/**
 * Megabytes a second of CPU time of an encoded segment, and of its float32 values, on one core: a program, no test.
 *
 *     java -cp runtime/target/classes:runtime/target/test-classes:… org.cooperllm.runtime.zo.GuideCodeSpeedKt FILE [rounds]
 *
 * FILE is one encoded segment, as device_runtime/zo/guide_code.py writes it.
 */
internal fun main(arguments: Array<String>) {
    val data = File(arguments[0]).readBytes()
    val rounds = arguments.getOrElse(1) { "40" }.toInt()
    val count = ByteBuffer.wrap(data).order(ByteOrder.LITTLE_ENDIAN).getInt(COUNT_AT)
    val values = FloatVector.allocate(count)
    val threads = ManagementFactory.getThreadMXBean()
    var leastNs = Long.MAX_VALUE
    repeat(rounds) {
        val startNs = threads.currentThreadCpuTime // what else runs on the machine does not count
        GuideCode.decode(data, count, values)
        leastNs = minOf(leastNs, threads.currentThreadCpuTime - startNs)
    }
    val encoded = data.size * BYTES_A_NS_IN_MB / leastNs
    val floats = Float.SIZE_BYTES.toLong() * count * BYTES_A_NS_IN_MB / leastNs
    println("%d values, %.4f bytes each".format(count, data.size.toDouble() / count))
    println("%8.1f MB/s encoded %8.1f MB/s float32".format(encoded, floats))
}

private const val COUNT_AT = 4
private const val BYTES_A_NS_IN_MB = 1e3
