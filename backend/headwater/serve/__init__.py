"""Listeners: gRPC for CoreDNS, plain DNS for development."""
