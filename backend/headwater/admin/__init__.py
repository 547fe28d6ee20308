"""HTTP for people and for Prometheus."""
