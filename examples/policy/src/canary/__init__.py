"""A policy for Headwater."""
