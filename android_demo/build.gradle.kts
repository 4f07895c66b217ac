// The demo app for phones, with the native libraries of both AARs. Has not run here: see settings.gradle.kts.

import com.android.build.api.variant.HostTestBuilder

plugins {
    alias(libs.plugins.android.application)
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
    namespace = "org.cooperllm.demo"
    compileSdk = libs.versions.compileSdk.get().toInt()
    defaultConfig {
        applicationId = "org.cooperllm.demo"
        minSdk = libs.versions.minSdk.get().toInt()
        targetSdk = libs.versions.targetSdk.get().toInt()
        versionCode = 1
        versionName = project.version.toString()
        testInstrumentationRunner = "androidx.test.runner.AndroidJUnitRunner"
        // What the official ExecuTorch AAR has.
        ndk.abiFilters += listOf("arm64-v8a", "x86_64")
    }
    buildTypes {
        release {
            isMinifyEnabled = true
            proguardFiles(getDefaultProguardFile("proguard-android-optimize.txt"), "proguard.txt")
            signingConfig = signingConfigs.getByName("debug")
        }
    }
    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_1_8
        targetCompatibility = JavaVersion.VERSION_1_8
    }
    sourceSets.named("main") {
        manifest.srcFile(layout.buildDirectory.file("manifest/AndroidManifest.xml").get().asFile)
    }
    // Native libraries for desktops, and files that several jars bring.
    packaging.resources.excludes += listOf("native/lib/**", "com/sun/jna/**", "META-INF/versions/**", "META-INF/*.txt")
}

// The tests on Robolectric are the POMs'.
androidComponents {
    beforeVariants { variant ->
        variant.hostTests[HostTestBuilder.UNIT_TEST_TYPE]?.enable = false
    }
}

dependencies {
    implementation(project(":android"))
    implementation(libs.executorch.android)
    implementation(libs.tokenizers.android)
    androidTestImplementation(libs.junit)
    androidTestImplementation(libs.test.runner)
}
