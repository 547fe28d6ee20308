"""Compare Headwater's answers with another DNS server's.

`messages` writes questions and reads replies, `deviations` knows every difference that is meant,
`judgement` gives each pair of replies its class. The differential test against CoreDNS judges with
these, too. `subjects` lists what to ask; `asking`, `over_grpc` and `from_store` ask. `comparison`
brings them together and asks again what differs. `session` runs it, `report` and `metrics` say what
came of it.
"""
