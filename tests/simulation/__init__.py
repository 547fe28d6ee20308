"""A deterministic simulation of the watch process and the readers, in one thread, with many faults.

docs/reliability.md says what it models and what it does not; `make simulate SEEDS=1000` runs it.

    schedule   a seed makes a list of actions, which can be replayed, and shrunk when it fails
    world      one instance, whose processes die and start again; it performs the actions
    api        the API server: objects with versions, lists in pages, watches, and their faults
    disk       the store's file: writes that are refused, torn or slow
    truth      the true answer for every name at every moment, by separate rules
    mutants    mistakes that are put into the code, one at a time, to see that they are found
"""
