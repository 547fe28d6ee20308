"""The wire: gRPC for CoreDNS, plain DNS for development."""
