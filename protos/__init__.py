"""The contract between devices and the cloud: federation.proto, bundle.proto and the stubs generated from them."""
