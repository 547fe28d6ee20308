"""DNS on the wire: numbers, names, records, questions, once."""
