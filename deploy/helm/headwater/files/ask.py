"""Ask a DNS Service over UDP and TCP, as `helm test` does.

    ask.py SERVICE "TYPE NAME" ...

The Service's address is in the environment: this has to work before its name can be looked up.
Each question is asked until it is answered, for a minute. The exit code is 1 when one was not.
"""

import os
import sys
import time

import dns.exception
import dns.message
import dns.query
import dns.rcode

PATIENCE = 60.0


def ask(address, port, kind, name, over):
    """Return what is wrong with the reply, or None."""
    question = dns.message.make_query(name, kind)
    try:
        reply = over(question, address, timeout=2, port=port)
    except (dns.exception.DNSException, OSError) as error:
        return f"{type(error).__name__}: {error}"
    if reply.rcode() != dns.rcode.NOERROR:
        return dns.rcode.to_text(reply.rcode())
    return None if reply.answer else "an empty answer"


def main(service, *questions):
    variable = service.upper().replace("-", "_")
    try:
        address = os.environ[f"{variable}_SERVICE_HOST"]
        port = int(os.environ.get(f"{variable}_SERVICE_PORT", "53"))
    except KeyError:
        return f"no variable {variable}_SERVICE_HOST: is Service {service} in this namespace, with a cluster IP?"
    deadline = time.monotonic() + PATIENCE
    for question in questions:
        kind, name = question.split(" ", 1)
        for over in (dns.query.udp, dns.query.tcp):
            while wrong := ask(address, port, kind, name, over):
                print(f"{name} {kind} over {over.__name__} at {address}: {wrong}", flush=True)
                if time.monotonic() > deadline:
                    return f"{name} {kind}: {wrong}"
                time.sleep(1)
            print(f"{name} {kind} over {over.__name__} at {address}: answered", flush=True)
    return None


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
