"""Real stateful servers, three members each, that find one another through CoreDNS and Headwater.

A member is a pod of namespaces (`pods`), with the files that a kubelet writes. A `site` is a node's
network with CoreDNS in it, Headwater beside it, and one headless Service. A `system` is what runs
in the pods: RabbitMQ, MariaDB with Galera, Kafka, FerretDB, Cassandra. What DNS told them is
captured on the bridge, and judged (`judge`).
"""
