package org.cooperllm.runtime.session

import org.junit.After
import org.junit.Before
import org.junit.Rule
import org.junit.rules.TemporaryFolder

/** What a session's tests begin with: a device in a folder of its own, and the cloud that it meets. */
abstract class InAWorld {
    @get:Rule
    val temporary = TemporaryFolder()

    internal lateinit var world: World
        private set

    @Before
    fun open() {
        world = World(temporary.newFolder())
    }

    @After
    fun close() = world.close()
}
