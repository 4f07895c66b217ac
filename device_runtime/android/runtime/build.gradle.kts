// The device's library: plain Kotlin on the JVM, no android import. Has not run here.

plugins {
    alias(libs.plugins.kotlin.jvm)
    `maven-publish`
}

kotlin {
    explicitApi()
}

dependencies {
    api(project(":protos"))
    api(libs.coroutines)
    api(libs.grpc.okhttp)
    api(libs.serialization.json)
    api(libs.tokenizers)
    testImplementation(libs.junit)
}

tasks.test {
    systemProperty("golden.dir", rootDir.resolve("../../tests/golden").path)
}
