"""The settings of an instance, and where they come from."""
