"""Records for the objects: pure functions, objects in, nodes out."""
