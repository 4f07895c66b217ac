package org.cooperllm.executorch

import kotlinx.coroutines.CoroutineStart
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.launch
import kotlinx.coroutines.runBlocking
import kotlinx.serialization.json.Json
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.JsonPrimitive
import org.cooperllm.runtime.CooperLLMError
import org.cooperllm.runtime.FederatedDevice
import org.cooperllm.runtime.session.Budget
import org.cooperllm.runtime.session.Event
import org.cooperllm.runtime.session.Example
import org.cooperllm.runtime.session.ServiceAddress
import java.io.File
import java.security.KeyStore
import java.security.cert.CertificateFactory
import javax.net.ssl.SSLContext
import javax.net.ssl.SSLSocketFactory
import javax.net.ssl.TrustManagerFactory
import kotlin.system.exitProcess

/**
 * A device on the JVM, for tests beside Python devices: `--server HOST:PORT --state FOLDER --data FILE.tsv
 * [--max-scalars N] [--predict TEXT] [--authority FILE.pem]`; with an authority it speaks TLS. Writes every event as a line of JSON, as `cooperllm device --format json` does.
 */
fun main(arguments: Array<String>) {
    val options = arguments.toList().chunked(2).associate { (name, value) -> name to value }
    try {
        FederatedDevice(
            File(options.getValue("--state")),
            addressOf(options.getValue("--server"), options["--authority"]?.let(::File)),
            { read(File(options.getValue("--data"))) },
            ExecuTorchProgram,
            Budget(options["--max-scalars"]?.toInt()),
        ).use { run(it, options["--predict"]) }
    } catch (error: CooperLLMError) {
        System.err.println("${error.javaClass.simpleName}: ${error.message}")
        exitProcess(1)
    }
    exitProcess(0) // without waiting for the idle threads of a connection
}

private fun addressOf(
    server: String,
    authority: File?,
) = ServiceAddress(server, tls = authority != null, sockets = authority?.let(::socketsOf), name = "jvm")

/** Trusts what this authority signed, and nothing else. */
private fun socketsOf(authority: File): SSLSocketFactory {
    val certificate = authority.inputStream().use { CertificateFactory.getInstance("X.509").generateCertificate(it) }
    val trusted = KeyStore.getInstance(KeyStore.getDefaultType()).apply { load(null) }
    trusted.setCertificateEntry("authority", certificate)
    val managers = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm()).apply { init(trusted) }
    return SSLContext.getInstance("TLS").apply { init(null, managers.trustManagers, null) }.socketFactory
}

private fun run(
    device: FederatedDevice,
    text: String?,
) = runBlocking {
    val printing = launch(Dispatchers.Unconfined, CoroutineStart.UNDISPATCHED) { device.progress.collect(::print) }
    device.runUntilFinished()
    printing.cancel()
    if (text == null) return@runBlocking
    val found = device.predict(listOf(text)).single()
    println(JsonObject(mapOf("event" to JsonPrimitive("prediction"), "label" to JsonPrimitive(found.label))))
}

private fun print(event: Event) {
    val fields =
        event.fields.filterKeys { it != "spans" }.mapValues { (_, value) ->
            if (value is Number) JsonPrimitive(value) else JsonPrimitive(value.toString())
        }
    println(Json.encodeToString(JsonObject.serializer(), JsonObject(fields + ("event" to JsonPrimitive(event.name)))))
    System.out.flush()
}

private fun read(file: File): List<Example> =
    file.readLines().drop(1).map { line -> Example(line.substringBefore('\t'), line.substringAfter('\t')) }
