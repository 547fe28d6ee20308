"""The watch process: changes in, transactions out."""
