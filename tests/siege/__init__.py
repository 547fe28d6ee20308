"""The faults of `make siege`, each alone and in pairs."""
