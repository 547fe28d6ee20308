"""A fake API server whose faults are scripted, and the real watch role that runs against it.

    truth    the objects, with a resourceVersion and a history
    server   list and watch over HTTP, byte by byte, and what it was asked
    faults   faults of a request, as functions of it
    role     the watch role in a process of its own, its long timeouts shortened
    reader   an answer process's view of the store, a prober, and the comparison with the truth
    watching the watch role, its store and the prober as one object

`cluster` puts them together on a small cluster.
"""
