"""Where notifications may be sent: addresses are checked after names are resolved, and it is these that are used."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from metricsdb.errors import ConfigError, DeliveryError

__all__ = ["Policy", "Resolve", "resolve", "shown"]

# Host and port to addresses, as text.
Resolve = Callable[[str, int], Awaitable[list[str]]]
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
# Services of clouds that give credentials to whoever asks; most others are link-local.
_METADATA = {ipaddress.ip_address(a) for a in ("100.100.100.200", "fd00:ec2::254", "168.63.129.16", "192.0.0.192")}
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


@dataclass(frozen=True, slots=True)
class Policy:
    """Link-local, metadata, multicast and unspecified addresses are never sent to.

    ``private``, ``loopback``: whether those may be. ``hosts``: if not empty, the only host names.
    ``schemes``: what an address may begin with.
    """

    private: bool = True
    loopback: bool = True
    hosts: frozenset[str] = frozenset()
    schemes: frozenset[str] = frozenset({"http", "https"})

    def check_url(self, url: str) -> tuple[str, int]:
        """Host and port of an address that may be asked for. Raises ``ConfigError`` without path or query."""
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            raise ConfigError("the address of a receiver cannot be read; write https://host/path") from None
        if parts.scheme not in self.schemes or not host:
            raise ConfigError(f"{shown(url)}: write {' or '.join(sorted(self.schemes))}://host/path")
        if self.hosts and host not in self.hosts:
            raise ConfigError(f"{shown(url)}: host {host!r} is not among those that are allowed")
        return host, port or (443 if parts.scheme == "https" else 80)

    def check_address(self, text: str) -> None:
        """Raises ``DeliveryError`` for an address that nothing may be sent to."""
        try:
            address = ipaddress.ip_address(text.partition("%")[0])
        except ValueError:
            raise DeliveryError(f"{text!r} is no address", retry=False) from None
        for one in _meant(address):
            if one.is_link_local or one in _METADATA or one.is_multicast or one.is_unspecified:
                raise DeliveryError(f"{text} is a link-local or metadata address, which is never sent to", retry=False)
            if one.is_loopback and not self.loopback:
                raise DeliveryError(f"{text} is a loopback address, which the policy forbids", retry=False)
            if one.is_private and not one.is_loopback and not self.private:
                raise DeliveryError(f"{text} is a private address, which the policy forbids", retry=False)

    async def address(self, url: str, find: Resolve) -> str:
        """The address to connect to: all that the name stands for must be allowed. Raises ``DeliveryError``."""
        try:
            host, port = self.check_url(url)
        except ConfigError as error:
            raise DeliveryError(str(error), retry=False) from None
        try:
            found = await find(host, port)
        except OSError as error:
            raise DeliveryError(f"{shown(url)}: the name cannot be resolved: {error}", retry=True) from None
        if not found:
            raise DeliveryError(f"{shown(url)}: the name has no address", retry=True)
        for one in found:
            self.check_address(one)
        return found[0]


def _meant(address: _Address) -> list[_Address]:
    """The address, and the IPv4 ones that it wraps."""
    found: list[_Address] = [address]
    if isinstance(address, ipaddress.IPv6Address):
        wrapped = (address.ipv4_mapped, address.sixtofour, *(address.teredo or ()))
        found += [one for one in wrapped if one is not None]
        if address in _NAT64:
            found.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return found


def shown(url: str) -> str:
    """A URL without what may be secret: user, path, query."""
    try:
        parts = urlsplit(url)
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "(address)"
    return f"{parts.scheme}://{host}{port}/…"


async def resolve(host: str, port: int) -> list[str]:
    """The machine's resolver."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(one[4][0]) for one in found]
