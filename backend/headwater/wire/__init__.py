"""DNS on the wire: numbers, names, records, questions. No other room repeats them."""
