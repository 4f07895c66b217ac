package org.cooperllm.android

import android.security.keystore.KeyProperties
import org.cooperllm.runtime.StoreError
import org.junit.After
import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Before
import org.junit.Test
import org.junit.runner.RunWith
import org.robolectric.RobolectricTestRunner
import org.robolectric.annotation.Config
import java.security.KeyFactory
import java.security.Security
import java.security.Signature
import java.security.interfaces.ECPublicKey
import java.security.spec.X509EncodedKeySpec

@RunWith(RobolectricTestRunner::class)
@Config(sdk = [35], application = TestApp::class)
internal class KeystoreKeysTest {
    private val provider = TestKeystore()

    @Before
    fun installTheKeystore() {
        TestKeystore.pairs.clear()
        TestKeystore.specs.clear()
        Security.addProvider(provider)
    }

    @After
    fun removeTheKeystore() = Security.removeProvider(provider.name)

    private fun verifies(
        publicKey: ByteArray,
        data: ByteArray,
        signature: ByteArray,
    ): Boolean {
        val key = KeyFactory.getInstance("EC").generatePublic(X509EncodedKeySpec(publicKey))
        assertEquals(256, (key as ECPublicKey).params.order.bitLength())
        return Signature.getInstance("SHA256withECDSA").run {
            initVerify(key)
            update(data)
            verify(signature)
        }
    }

    @Test
    fun aSignatureIsOneOfThePublicKeyThatIsTold() {
        val signer = KeystoreKeys().signer()
        val signature = signer.sign(byteArrayOf(1, 2, 3))
        assertTrue(verifies(signer.publicKey, byteArrayOf(1, 2, 3), signature))
        assertFalse(verifies(signer.publicKey, byteArrayOf(1, 2, 4), signature))
    }

    @Test
    fun theKeyIsForSigningAloneAndNeedsNoUser() {
        KeystoreKeys("mine").signer()
        val spec = TestKeystore.specs.single()
        assertEquals("mine", spec.keystoreAlias)
        assertEquals(KeyProperties.PURPOSE_SIGN, spec.purposes)
        assertArrayEquals(arrayOf(KeyProperties.DIGEST_SHA256), spec.digests)
        assertFalse(spec.isUserAuthenticationRequired)
    }

    @Test
    fun theKeyStaysUntilItIsForgotten() {
        val first = KeystoreKeys().signer().publicKey
        assertArrayEquals(first, KeystoreKeys().signer().publicKey)
        assertFalse(first.contentEquals(KeystoreKeys("another").signer().publicKey))
        KeystoreKeys().forget()
        assertFalse(first.contentEquals(KeystoreKeys().signer().publicKey))
    }

    @Test
    fun aKeyThatIsNoLongerHandedOutIsReplaced() {
        val first = KeystoreKeys().signer().publicKey
        TestKeystore.isBroken = true
        assertFalse(first.contentEquals(KeystoreKeys().signer().publicKey))
    }

    @Test
    fun aPhoneWithoutAKeystoreSaysSo() {
        Security.removeProvider(provider.name)
        assertThrows(StoreError::class.java) { KeystoreKeys().signer() }
    }
}
