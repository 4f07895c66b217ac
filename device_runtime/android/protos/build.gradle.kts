// The messages and calls of the protocol, from the one source that every language shares. Has not run here.

plugins {
    alias(libs.plugins.kotlin.jvm)
    alias(libs.plugins.protobuf)
    `maven-publish`
}

sourceSets {
    main {
        proto {
            setSrcDirs(listOf("../../../protos"))
            include("federation.proto")
        }
    }
}

protobuf {
    protoc {
        artifact = libs.protoc.get().toString()
    }
    plugins {
        create("grpc") {
            artifact = libs.protoc.gen.grpc.java.get().toString()
        }
        create("grpckt") {
            artifact = "${libs.protoc.gen.grpc.kotlin.get()}:jdk8@jar"
        }
    }
    generateProtoTasks {
        all().configureEach {
            builtins {
                named("java") {
                    option("lite")
                }
            }
            plugins {
                create("grpc") {
                    option("lite")
                    option("@generated=omit")
                }
                create("grpckt")
            }
        }
    }
}

dependencies {
    api(libs.coroutines)
    api(libs.grpc.protobuf.lite)
    api(libs.grpc.stub)
    api(libs.grpc.kotlin.stub)
    api(libs.protobuf.javalite)
}
