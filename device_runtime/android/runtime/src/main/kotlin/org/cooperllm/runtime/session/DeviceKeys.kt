package org.cooperllm.runtime.session

import org.cooperllm.runtime.store.Store

/** Where a device's private key lies: a phone's keystore, or a file of its own store. */
public interface DeviceKeys {
    /** The key; made where there is none yet. */
    public fun signer(): Signer

    /** Deletes it: the next [signer] is a new one. */
    public fun forget()
}

/** A key that lies in the store, readable by its owner alone. */
internal class StoredKeys(
    private val store: Store,
) : DeviceKeys {
    override fun signer(): Signer =
        store.readKey()?.let(SoftwareSigner::fromPem)
            ?: SoftwareSigner.generate().also { store.writeKey(it.pem()) }

    /** Nothing: [Store.forget] deletes it with everything else. */
    override fun forget() = Unit
}
