"""The differential test: CoreDNS's `kubernetes` plugin is the oracle for what Headwater answers.

`world` draws objects, `corners` has what is easily got wrong, `generate` makes a
cluster of them and changes it, `names` derives what to ask. `servers` runs both
on one API server, once per set of flags; `wire` exchanges and reads messages;
`compare` judges, and knows every deviation by name; `campaign` is one seed from
beginning to end. `python -m tests.answers` runs any number of seeds, `python -m
tests.answers.scale` the comparison at full size.
"""
