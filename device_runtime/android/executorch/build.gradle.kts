// The one file that touches ExecuTorch's AAR, compiled against the official one. Has not run here.

plugins {
    alias(libs.plugins.kotlin.jvm)
    `maven-publish`
}

kotlin {
    explicitApi()
}

// Its tests run real programs on the desktop twin of the AAR, which only the POMs build.
sourceSets {
    test {
        kotlin.setSrcDirs(emptyList<String>())
    }
}

// A JVM project cannot consume an AAR: it takes the classes out of it, and an app brings the whole.
val aar by configurations.creating {
    isTransitive = false
}
val classesOfAar by tasks.registering(Copy::class) {
    from({ zipTree(aar.singleFile) })
    include("classes.jar")
    into(layout.buildDirectory.dir("aar"))
}

dependencies {
    api(project(":runtime"))
    aar(variantOf(libs.executorch.android) { artifactType("aar") })
    compileOnly(files(layout.buildDirectory.file("aar/classes.jar")) { builtBy(classesOfAar) })
}
