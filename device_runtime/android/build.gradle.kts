// What the libraries share. Has not run here: see settings.gradle.kts.

import org.jetbrains.kotlin.gradle.dsl.JvmTarget
import org.jetbrains.kotlin.gradle.dsl.KotlinJvmProjectExtension

plugins {
    alias(libs.plugins.android.application) apply false
    alias(libs.plugins.android.library) apply false
    alias(libs.plugins.kotlin.jvm) apply false
    alias(libs.plugins.protobuf) apply false
}

subprojects {
    plugins.withId("org.jetbrains.kotlin.jvm") {
        configure<KotlinJvmProjectExtension> {
            // As in the POMs: nothing of java.* that is newer than Java 8, which phones do not have.
            compilerOptions {
                jvmTarget = JvmTarget.JVM_1_8
                freeCompilerArgs.add("-Xjdk-release=8")
            }
        }
        configure<JavaPluginExtension> {
            withSourcesJar()
        }
        tasks.withType<JavaCompile>().configureEach {
            options.release = 8
        }
    }
    plugins.withId("maven-publish") {
        configure<PublishingExtension> {
            repositories {
                maven {
                    name = "build"
                    url = uri(rootProject.layout.buildDirectory.dir("repository"))
                }
            }
            publications.register<MavenPublication>("library") {
                // The component of an Android library is there only at the end of the configuration.
                afterEvaluate {
                    from(components[if (plugins.hasPlugin("com.android.library")) "release" else "java"])
                }
                pom {
                    licenses {
                        license {
                            name = "Apache-2.0"
                            url = "https://www.apache.org/licenses/LICENSE-2.0.txt"
                        }
                    }
                }
            }
        }
    }
}
