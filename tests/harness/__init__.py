"""What tests stand on: real processes, a real control plane, a prober, a small cluster of objects."""
