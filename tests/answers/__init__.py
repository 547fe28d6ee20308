"""The differential test: CoreDNS's `kubernetes` plugin is the oracle for Headwater's answers.

`objects` draws objects, and `corners` draws those that are easily handled wrongly. `generate` makes
a cluster of them and changes it, and `names` derives the questions. `servers` runs both servers on
one API server, once per set of flags. `wire` exchanges messages in bulk. `compare` compares them
with the package's own comparator (`headwater.compare`), which has a name for every deviation.
`campaign` runs one seed from beginning to end. `python -m tests.answers` runs any number of seeds,
and `python -m tests.answers.scale` runs the comparison at full size.
"""
