"""What will not work of the Services and StatefulSets that are known, and what to write instead."""
