"""Kubernetes: its objects, and how they are followed."""
