"""Where the API is about to listen in; a refusal, where everybody who reaches it there could do everything, out."""

from __future__ import annotations

import logging
from ipaddress import ip_address

from service.errors import InvalidOptions
from service.jobs.keys import KIND
from service.jobs.records import Records
from service.settings import Settings

log = logging.getLogger(__name__)


def check(host: str, config: Settings, records: Records) -> None:
    """Raises InvalidOptions for an address off loopback without any key, unless that is wanted."""
    if config.open:
        log.warning("API keys are not asked for: whoever reaches this server may do everything")
    elif not is_loopback(host) and not records.page(KIND, limit=1):
        raise InvalidOptions(
            f"host {host!r} can be reached from other machines, and there is no API key yet: make one with "
            "`tal keys create`, or serve everybody with --open"
        )


def is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
