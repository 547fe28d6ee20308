"""What the two sides share: one LMDB environment, and the format of its values."""
