"""What an instance was told."""
