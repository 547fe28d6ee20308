"""What every process has: its counters, its log, its pipe to the supervisor."""
