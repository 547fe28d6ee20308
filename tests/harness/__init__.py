"""Parts that tests share: real processes, a real control plane, a prober, a small cluster."""
