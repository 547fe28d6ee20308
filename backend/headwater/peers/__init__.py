"""Between instances: one serves its store, another one with nothing stored takes it."""
