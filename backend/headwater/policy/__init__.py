"""A policy: an operator's own function that shapes the records of Services (docs/policy.md)."""
