"""An IP address in; whether requests may go there out. What is not known to be public is special."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

Address = IPv4Address | IPv6Address

# RFC 1918, shared address space (RFC 6598), loopback, unique local (RFC 4193): what a closed network is made of.
PRIVATE_V4 = tuple(map(IPv4Network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "127.0.0.0/8")))
PRIVATE_V6 = tuple(map(IPv6Network, ("::1/128", "fc00::/7")))
# Where clouds tell a machine its own credentials; nothing else of use answers there.
METADATA = (
    IPv4Address("100.100.100.200"),
    *map(IPv6Address, ("fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254", "fd00:c1::a9fe:a9fe")),
)
# The rest of IANA's registries of special addresses, and what its list of unicast space leaves out.
SPECIAL_V4 = tuple(
    map(
        IPv4Network,
        (
            *("0.0.0.0/8", "169.254.0.0/16", "192.0.0.0/24", "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24"),
            *("192.88.99.0/24", "192.175.48.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24"),
            *("224.0.0.0/4", "240.0.0.0/4"),
            "168.63.129.16/32",  # public by number, yet a cloud's agent of the machine itself
        ),
    )
)
GLOBAL_V6 = IPv6Network("2000::/3")
# Protocol assignments with Teredo, documentation, 6to4, AS112, documentation.
SPECIAL_V6 = tuple(map(IPv6Network, ("2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20")))
# RFC 6052: networks without IPv4 reach an IPv4 address under this prefix, so that address is what counts.
TRANSLATED = IPv6Network("64:ff9b::/96")


def allowed(address: Address, *, private: bool) -> bool:
    """With `private` also private and loopback addresses; link-local, multicast and other special ones never."""
    if isinstance(address, IPv6Address) and address in TRANSLATED:
        return allowed(IPv4Address(int(address) & 0xFFFFFFFF), private=private)
    if _is_private(address):
        return private and address not in METADATA
    return _is_public(address)


def _is_private(address: Address) -> bool:
    if isinstance(address, IPv4Address):
        return any(address in network for network in PRIVATE_V4)
    return any(address in network for network in PRIVATE_V6)


def _is_public(address: Address) -> bool:
    if isinstance(address, IPv4Address):
        return not any(address in network for network in SPECIAL_V4)
    return address in GLOBAL_V6 and not any(address in network for network in SPECIAL_V6)
