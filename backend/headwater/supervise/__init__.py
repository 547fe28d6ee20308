"""Processes, sockets, signals: an instance and its children."""
