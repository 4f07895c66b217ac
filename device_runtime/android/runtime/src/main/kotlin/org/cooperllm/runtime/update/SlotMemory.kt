package org.cooperllm.runtime.update

import org.cooperllm.runtime.zo.FloatVector

/**
 * Memory for the hidden states of one measurement in streaming order after the other: what one group of directions held,
 * the next one uses again, instead of leaving it to be collected.
 */
internal class SlotMemory {
    private val vectors = mutableListOf<FloatVector>()

    /** Place [number], from 0, as a vector of [count] values; what lay there before is no longer that. */
    fun slot(
        number: Int,
        count: Int,
    ): FloatVector {
        while (vectors.size <= number) vectors += FloatVector.allocate(0)
        if (vectors[number].count < count) vectors[number] = FloatVector.allocate(count)
        return FloatVector(vectors[number].view(0, count))
    }

    /** Lets go of all of it. */
    fun release() = vectors.clear()
}
