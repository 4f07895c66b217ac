"""The contract between devices and the cloud: federation.proto, bundle.proto and their generated stubs."""
