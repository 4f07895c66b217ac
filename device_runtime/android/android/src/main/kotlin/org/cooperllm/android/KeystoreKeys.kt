package org.cooperllm.android

import android.security.keystore.KeyGenParameterSpec
import android.security.keystore.KeyProperties
import org.cooperllm.runtime.StoreError
import org.cooperllm.runtime.session.DeviceKeys
import org.cooperllm.runtime.session.Signer
import java.io.IOException
import java.security.GeneralSecurityException
import java.security.KeyPairGenerator
import java.security.KeyStore
import java.security.PrivateKey
import java.security.Signature
import java.security.spec.ECGenParameterSpec

/**
 * The device's key in the Android Keystore: EC P-256, made there, in secure hardware where the phone has it; its private
 * half can be used by this app alone, and read by nobody.
 *
 * A key that the phone no longer hands out (some do so after an update of the system) is replaced: to the cloud, the
 * device is a new one then. Raises StoreError when the keystore does not answer: try again after a restart of the phone.
 *
 * @param alias the key's name in the app's part of the keystore; one for each FederatedDevice
 */
public class KeystoreKeys
    @JvmOverloads
    constructor(
        private val alias: String = "org.cooperllm.device",
    ) : DeviceKeys {
        override fun signer(): Signer = ask { read(it) ?: make(it) }

        override fun forget(): Unit = ask { it.deleteEntry(alias) }

        private fun read(keystore: KeyStore): Signer? =
            try {
                val key = keystore.getKey(alias, null) as? PrivateKey
                val certificate = keystore.getCertificate(alias)
                if (key == null || certificate == null) null else KeystoreSigner(key, certificate.publicKey.encoded)
            } catch (_: GeneralSecurityException) {
                null
            }

        private fun make(keystore: KeyStore): Signer {
            val wanted =
                KeyGenParameterSpec
                    .Builder(alias, KeyProperties.PURPOSE_SIGN)
                    .setAlgorithmParameterSpec(ECGenParameterSpec("secp256r1"))
                    .setDigests(KeyProperties.DIGEST_SHA256)
                    .build()
            keystore.deleteEntry(alias)
            val generator = KeyPairGenerator.getInstance(KeyProperties.KEY_ALGORITHM_EC, KEYSTORE)
            generator.initialize(wanted)
            val pair = generator.generateKeyPair()
            return KeystoreSigner(pair.private, pair.public.encoded)
        }

        private fun <T> ask(question: (KeyStore) -> T): T =
            try {
                question(KeyStore.getInstance(KEYSTORE).apply { load(null) })
            } catch (error: GeneralSecurityException) {
                throw StoreError(NO_ANSWER, error)
            } catch (error: IOException) {
                throw StoreError(NO_ANSWER, error)
            }

        private class KeystoreSigner(
            private val key: PrivateKey,
            override val publicKey: ByteArray,
        ) : Signer {
            override fun sign(data: ByteArray): ByteArray =
                try {
                    Signature.getInstance("SHA256withECDSA").run {
                        initSign(key)
                        update(data)
                        sign()
                    }
                } catch (error: GeneralSecurityException) {
                    throw StoreError(NO_ANSWER, error)
                }
        }

        private companion object {
            const val KEYSTORE = "AndroidKeyStore"
            const val NO_ANSWER = "the phone's keystore does not answer: restart the phone and try again"
        }
    }
