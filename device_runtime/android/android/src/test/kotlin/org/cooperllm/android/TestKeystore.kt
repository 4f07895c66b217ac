package org.cooperllm.android

import android.security.keystore.KeyGenParameterSpec
import java.io.InputStream
import java.io.OutputStream
import java.security.Key
import java.security.KeyPair
import java.security.KeyPairGenerator
import java.security.KeyPairGeneratorSpi
import java.security.KeyStoreSpi
import java.security.Provider
import java.security.PublicKey
import java.security.SecureRandom
import java.security.UnrecoverableKeyException
import java.security.cert.Certificate
import java.security.spec.AlgorithmParameterSpec
import java.util.Collections
import java.util.Date
import java.util.Enumeration

/** A software keystore under the phone's provider name, for what Robolectric does not have. */
internal class TestKeystore : Provider("AndroidKeyStore", "1", "keys in memory") {
    init {
        put("KeyStore.AndroidKeyStore", Entries::class.java.name)
        put("KeyPairGenerator.EC", Generator::class.java.name)
    }

    /** As a phone's: one name, where the platform has its own. */
    class Generator : KeyPairGeneratorSpi() {
        private var spec: KeyGenParameterSpec? = null

        override fun initialize(
            params: AlgorithmParameterSpec,
            random: SecureRandom?,
        ) {
            spec = params as KeyGenParameterSpec
        }

        override fun initialize(
            keysize: Int,
            random: SecureRandom?,
        ) = error("a phone's keystore wants a KeyGenParameterSpec")

        override fun generateKeyPair(): KeyPair {
            val wanted = checkNotNull(spec)
            val generator = KeyPairGenerator.getInstance("EC", "SunEC")
            generator.initialize(wanted.algorithmParameterSpec)
            specs += wanted
            return generator.generateKeyPair().also { pairs[wanted.keystoreAlias] = it }
        }
    }

    class Entries : KeyStoreSpi() {
        override fun engineGetKey(
            alias: String,
            password: CharArray?,
        ): Key? = if (isBroken) throw UnrecoverableKeyException("the key is gone") else pairs[alias]?.private

        override fun engineGetCertificate(alias: String): Certificate? = pairs[alias]?.let { Bare(it.public) }

        override fun engineDeleteEntry(alias: String) {
            pairs.remove(alias)
            isBroken = false
        }

        override fun engineLoad(
            stream: InputStream?,
            password: CharArray?,
        ) = Unit

        override fun engineContainsAlias(alias: String) = alias in pairs

        override fun engineSize() = pairs.size

        override fun engineAliases(): Enumeration<String> = Collections.enumeration(pairs.keys)

        override fun engineIsKeyEntry(alias: String) = alias in pairs

        override fun engineIsCertificateEntry(alias: String) = false

        override fun engineGetCreationDate(alias: String): Date? = null

        override fun engineGetCertificateChain(alias: String): Array<Certificate>? = null

        override fun engineGetCertificateAlias(cert: Certificate): String? = null

        override fun engineSetKeyEntry(
            alias: String,
            key: Key,
            password: CharArray?,
            chain: Array<Certificate>?,
        ) = error("keys are made here")

        override fun engineSetKeyEntry(
            alias: String,
            key: ByteArray,
            chain: Array<Certificate>?,
        ) = error("keys are made here")

        override fun engineSetCertificateEntry(
            alias: String,
            cert: Certificate,
        ) = error("keys are made here")

        override fun engineStore(
            stream: OutputStream?,
            password: CharArray?,
        ) = error("keys never leave")
    }

    private class Bare(
        private val key: PublicKey,
    ) : Certificate("bare") {
        override fun getPublicKey() = key

        override fun getEncoded() = ByteArray(0)

        override fun verify(key: PublicKey) = Unit

        override fun verify(
            key: PublicKey,
            sigProvider: String,
        ) = Unit

        override fun toString() = "bare"
    }

    companion object {
        val pairs = mutableMapOf<String, KeyPair>()
        val specs = mutableListOf<KeyGenParameterSpec>()
        var isBroken = false
    }
}
