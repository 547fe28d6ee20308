"""What Kubernetes says: objects, and the sources they come from."""
