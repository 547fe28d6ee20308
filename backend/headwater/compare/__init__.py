"""Headwater's answers beside another DNS server's: what to ask, who is asked, and what a difference
is.

`messages` writes questions and reads replies, `deviations` knows every difference that is meant,
`judgement` gives each pair of replies its class. The differential test against CoreDNS judges with
these, too. `subjects` lists what to ask, `asking` and `ours` ask, `comparison` brings them together
and asks again what differs, `report` and `metrics` say what came of it.
"""
