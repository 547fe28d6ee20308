"""A deterministic simulation: everything of the watch process and the readers, in one thread, faults in company.

docs/reliability.md says what it models and what it does not; `make simulate SEEDS=1000` runs it.

    schedule   a seed makes a list of actions, which is data: it is replayed, and shrunk when it fails
    world      one instance, whose processes die and start again, does what the actions say
    api        the API server: objects with versions, lists in pages, watches, and what goes wrong with them
    disk       the store's file: writes that are refused, torn or slow
    truth      what every name's answer was, moment by moment, by rules of its own
    mutants    mistakes that are put back into the code, one at a time, to see that they are found
"""
