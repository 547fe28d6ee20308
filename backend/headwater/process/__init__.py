"""Parts of every process: its counters, its log, its link to the supervisor."""
