"""Generated from protos/ by tools/protoc.py."""
