"""Clients' addresses in the form that is logged, trusted and counted."""

import ipaddress
from functools import lru_cache

PREFIX = 64  # bits; a host can use as many addresses of its IPv6 network as it likes


def unmapped(address: str) -> str:
    """192.0.2.1 for ::ffff:192.0.2.1, which is how a dual-stack socket reports it. Other addresses are unchanged."""
    return address.rpartition(":")[2] if address.startswith("::ffff:") and "." in address else address


@lru_cache(4096)
def network(address: str) -> str:
    """The address if it is IPv4, its network of 64 bits if it is IPv6, or anything else unchanged."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return address
    if parsed.ipv4_mapped:
        return str(parsed.ipv4_mapped)
    return f"{ipaddress.IPv6Address(int(parsed) >> (128 - PREFIX) << (128 - PREFIX))}/{PREFIX}"
