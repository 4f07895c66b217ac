package org.cooperllm.android

/** Calls what the lowest supported Android lacks, and is called only after asking for the version: see the POM's check. */
@Retention(AnnotationRetention.BINARY)
@Target(AnnotationTarget.FUNCTION)
internal annotation class NewerThanMinSdk
