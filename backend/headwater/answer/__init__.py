"""Bytes in, bytes out: from a DNS query to its reply."""
