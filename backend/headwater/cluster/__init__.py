"""What Kubernetes says: its objects, and what keeps them true."""
