// The build for phones: the same sources as the POMs beside it, with the official ExecuTorch AAR and the native tokenizers.
//
//   gradle -p device_runtime/android :demo:assembleRelease     the demo, with native libraries for arm64-v8a and x86_64
//   gradle -p device_runtime/android publish                   the libraries, into build/repository
//
// It has not run where this project is developed, for lack of the Android SDK: there the POMs build and test the same
// sources, and tests/device_runtime/test_android_builds.py compares the two builds. .github/workflows/android.yml runs it.
// Needs Gradle 9.1 or newer, JDK 17, and an Android SDK with accepted licences.

pluginManagement {
    repositories {
        google()
        mavenCentral()
        gradlePluginPortal()
    }
}

dependencyResolutionManagement {
    repositoriesMode = RepositoriesMode.FAIL_ON_PROJECT_REPOS
    repositories {
        google()
        mavenCentral()
    }
}

rootProject.name = "cooperllm-android"

include("protos", "runtime", "executorch", "android", "demo")
project(":demo").projectDir = file("../../android_demo")
