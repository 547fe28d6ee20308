"""The measurements, and how they are taken."""
