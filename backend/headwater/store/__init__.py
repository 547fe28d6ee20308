"""The store that writer and readers share: one LMDB environment, and the format of its values."""
