// The Android library: job, notification, conditions and key. Has not run here.

import com.android.build.api.variant.HostTestBuilder

plugins {
    alias(libs.plugins.android.library)
    `maven-publish`
}

// The plugin wants name and levels said here, and not in the manifest, where aapt2 alone needs them.
val strippedManifest by tasks.registering(Copy::class) {
    from("src/main/AndroidManifest.xml")
    into(layout.buildDirectory.dir("manifest"))
    filter { line -> line.replace(Regex("""package="[^"]*"|<uses-sdk [^>]*/>"""), "") }
}
tasks.named("preBuild") {
    dependsOn(strippedManifest)
}

android {
    namespace = "org.cooperllm.android"
    compileSdk = libs.versions.compileSdk.get().toInt()
    defaultConfig {
        minSdk = libs.versions.minSdk.get().toInt()
        consumerProguardFiles("src/main/proguard.txt")
    }
    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_1_8
        targetCompatibility = JavaVersion.VERSION_1_8
    }
    sourceSets.named("main") {
        manifest.srcFile(layout.buildDirectory.file("manifest/AndroidManifest.xml").get().asFile)
    }
    publishing {
        singleVariant("release") {
            withSourcesJar()
            withJavadocJar()
        }
    }
}

kotlin {
    explicitApi()
}

// The tests on Robolectric are the POMs'.
androidComponents {
    beforeVariants { variant ->
        variant.hostTests[HostTestBuilder.UNIT_TEST_TYPE]?.enable = false
    }
}

dependencies {
    api(project(":runtime"))
    api(project(":executorch"))
    api(libs.coroutines)
}
