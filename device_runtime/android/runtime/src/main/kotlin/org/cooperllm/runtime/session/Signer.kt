package org.cooperllm.runtime.session

import java.security.GeneralSecurityException
import java.security.KeyFactory
import java.security.KeyPair
import java.security.KeyPairGenerator
import java.security.PrivateKey
import java.security.Signature
import java.security.spec.ECGenParameterSpec
import java.security.spec.PKCS8EncodedKeySpec
import java.security.spec.X509EncodedKeySpec
import java.util.Base64

/**
 * A device's identity: one EC P-256 key, made on the device, whose private half never leaves it.
 *
 * The one seam to where the key lies: a phone's keystore, or [SoftwareSigner].
 */
public interface Signer {
    /** The public key: SubjectPublicKeyInfo in DER. */
    public val publicKey: ByteArray

    /** The signature of [data]: ECDSA over SHA-256, in DER. */
    public fun sign(data: ByteArray): ByteArray
}

/** A key in memory, kept as PEM (PKCS #8) in a device's own store: the Python device reads the same file. */
internal class SoftwareSigner private constructor(
    private val privateKey: PrivateKey,
    override val publicKey: ByteArray,
) : Signer {
    override fun sign(data: ByteArray): ByteArray =
        Signature.getInstance(ALGORITHM).run {
            initSign(privateKey)
            update(data)
            sign()
        }

    /** The private key in PEM. The encoding of a P-256 key has one length and one beginning. */
    fun pem(): ByteArray {
        // Java's own encoding ends with the 32 bytes of the secret; it leaves out the public half, which is wanted here.
        val encoded = privateKey.encoded
        val start = encoded.indexOf(SECRET_START) + SECRET_START.size
        val secret = encoded.copyOfRange(start, start + SECRET_BYTES)
        val der = PREFIX + secret + MIDDLE + publicKey.copyOfRange(publicKey.size - POINT_BYTES, publicKey.size)
        val body = Base64.getMimeEncoder(LINE_CHARACTERS, byteArrayOf('\n'.code.toByte())).encodeToString(der)
        return "$BEGIN\n$body\n$END\n".toByteArray()
    }

    companion object {
        private const val ALGORITHM = "SHA256withECDSA"
        private const val BEGIN = "-----BEGIN PRIVATE KEY-----"
        private const val END = "-----END PRIVATE KEY-----"
        private const val LINE_CHARACTERS = 64
        private const val SECRET_BYTES = 32
        private const val POINT_BYTES = 65

        /** What stands before the secret in every encoding of a P-256 key, with or without the public half behind it. */
        private val SECRET_START = bytes("0201010420")
        private val PREFIX =
            bytes("308187020100301306072a8648ce3d020106082a8648ce3d030107046d306b") + SECRET_START
        private val MIDDLE = bytes("a144034200")

        /** What stands before the point in a public key. */
        private val PUBLIC_PREFIX = bytes("3059301306072a8648ce3d020106082a8648ce3d030107034200")

        /** Makes a new key from the system's randomness. */
        fun generate(): SoftwareSigner {
            val generator = KeyPairGenerator.getInstance("EC")
            generator.initialize(ECGenParameterSpec("secp256r1"))
            val pair: KeyPair = generator.generateKeyPair()
            return SoftwareSigner(pair.private, pair.public.encoded)
        }

        /** The key in a PEM file, or null when it holds no P-256 key with its public half: then make a new one. */
        fun fromPem(pem: ByteArray): SoftwareSigner? =
            try {
                val text = pem.decodeToString().substringAfter(BEGIN, "").substringBefore(END)
                val der = Base64.getMimeDecoder().decode(text)
                val middle = PREFIX.size + SECRET_BYTES
                val isOne =
                    der.size == middle + MIDDLE.size + POINT_BYTES && der.copyOf(PREFIX.size).contentEquals(PREFIX)
                if (isOne) fromDer(der, PUBLIC_PREFIX + der.copyOfRange(middle + MIDDLE.size, der.size)) else null
            } catch (_: IllegalArgumentException) {
                null
            } catch (_: GeneralSecurityException) {
                null
            }

        private fun fromDer(
            der: ByteArray,
            publicKey: ByteArray,
        ): SoftwareSigner? {
            val keys = KeyFactory.getInstance("EC")
            val signer = SoftwareSigner(keys.generatePrivate(PKCS8EncodedKeySpec(der)), publicKey)
            val check = Signature.getInstance(ALGORITHM)
            check.initVerify(keys.generatePublic(X509EncodedKeySpec(publicKey)))
            check.update(publicKey)
            return signer.takeIf { check.verify(it.sign(publicKey)) }
        }

        private fun bytes(hex: String) = hexBytes(hex)

        private fun ByteArray.indexOf(part: ByteArray): Int =
            (0..size - part.size).first { at -> part.indices.all { this[at + it] == part[it] } }
    }
}

/** Bytes from hexadecimal digits. */
internal fun hexBytes(hex: String): ByteArray =
    ByteArray(hex.length / 2) { hex.substring(2 * it, 2 * it + 2).toInt(radix = 16).toByte() }
