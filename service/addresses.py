"""Clients' addresses, in the form in which they are logged, trusted and counted."""

import ipaddress
from functools import lru_cache

PREFIX = 64  # bits: of the addresses of one IPv6 network, each of its hosts may use as many as it likes


def unmapped(address: str) -> str:
    """The IPv4 address that a socket for both kinds writes as ::ffff:192.0.2.1; any other unchanged."""
    return address.rpartition(":")[2] if address.startswith("::ffff:") and "." in address else address


@lru_cache(4096)
def network(address: str) -> str:
    """What counts as one client: an IPv4 address, an IPv6 network of 64 bits; anything else as it is."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return address
    if parsed.ipv4_mapped:
        return str(parsed.ipv4_mapped)
    return f"{ipaddress.IPv6Address(int(parsed) >> (128 - PREFIX) << (128 - PREFIX))}/{PREFIX}"
