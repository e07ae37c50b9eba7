"""Hostile URLs, names that lead inside and addresses of every range in; refusals before any connection out."""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.egress.addresses import allowed
from service.egress.requests import Guard, UrlDeniedError, UrlFailedError, fetch, post

PUBLIC, OTHER_PUBLIC = "93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c"
# With the schemes and the hosts wide open, only addresses and forms are left to refuse.
ANY = Guard(("*",), ("https", "http"))

LITERALS = [
    *("127.0.0.1", "127.0.0.1:80", "127.1", "127.0.1", "2130706433", "0x7f000001", "0x7f.1", "0x7F.0x0.0x0.0x1"),
    *("017700000001", "0177.0.0.1", "0177.0x0.0.1", "127.0.0.01", "127.0.0.1.", "0", "0.0.0.0", "0x", "00"),
    *("10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1", "100.100.100.200"),
    *("169.254.169.254", "2852039166", "0xa9fea9fe", "0xA9.0xFE.0xA9.0xFE", "0251.0376.0251.0376", "169.254.43518"),
    *("192.0.0.192", "192.0.2.1", "192.88.99.1", "198.18.0.1", "198.19.255.255", "198.51.100.1", "203.0.113.1"),
    *("224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255", "256.256.256.256", "1.2.3.4.5", "4294967297"),
    *("[::1]", "[::1]:443", "[0:0:0:0:0:0:0:1]", "[0000::0001]", "[::]", "[::127.0.0.1]", "[::7f00:1]"),
    *("[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::ffff:0:127.0.0.1]", "[::ffff:169.254.169.254]"),
    *(f"[::ffff:{PUBLIC}]", "[64:ff9b::127.0.0.1]", "[64:ff9b::a9fe:a9fe]", "[64:ff9b::10.0.0.1]"),
    *("[64:ff9b:1::7f00:1]", "[2002:7f00:1::]", "[2002:c0a8:101::1]", "[2001:0:7f00:1::]", "[2001::ffff:ffff]"),
    *("[2001:db8::1]", "[3fff::1]", "[fe80::1]", "[fe80::1%25eth0]", "[fe80::1%eth0]", "[fe80::1%251]", "[fec0::1]"),
    *("[fc00::1]", "[fd00:ec2::254]", "[ff02::1]", "[5f00::1]", "[100::1]", "[4000::1]", "[127.0.0.1]", "[]", "[::1"),
    *("１２７.０.０.１", "127。0。0。1", "①②⑦.⓪.⓪.①", "%31%32%37.0.0.1", "127%2e0%2e0%2e1", "127.0.0.1%00.a.org"),
]
FORMS = [
    *("http://user@93.184.215.14/", "http://user:secret@a.org/", "http://a.org@127.0.0.1/", "http://@a.org/"),
    *("http://a.org:80@127.0.0.1/", "http://127.0.0.1\\@a.org/", "http:\\\\127.0.0.1\\", "http://a.org\\.b.org/"),
    *("http:///127.0.0.1/", "http:/127.0.0.1/", "http:127.0.0.1", "//127.0.0.1/", "127.0.0.1", "", "http://", "http"),
    *("http://a.org\r\nHost: b.org/", "http://a.org/\r\nX: y", "http://a.org/a b", "http://a.org/\t", " http://a.org/"),
    *("http://a.org:22/", "http://a.org:0/", "http://a.org:65536/", "http://a.org:+80/", "http://a.org:８０/"),
    *("http://a.org:/", "http://a.org:80:80/", "http://a.org:443/", "https://a.org:80/", "http://a.org:0080x/"),
    *("file:///etc/passwd", "file://a.org/x", "gopher://a.org/_x", "ftp://a.org/x", "data:video/mp4;base64,AA=="),
    *("javascript:alert(1)", "http+unix://%2Frun%2Fdocker.sock/x", "unix:/run/docker.sock", "jar:http://a.org!/"),
    *("http://a.org./", "http://.a.org/", "http://a..org/", "http://-a.org/", "http://a-.org/", "http://*/"),
    *("http://a_b.org/", f"http://{'a' * 64}.org/", f"http://{'a.' * 130}org/", f"http://a.org/{'a' * 5000}"),
    *(
        "http://lo\u00adcalhost/",
        "http://lo\u200bcalhost/",
        "http://ⓛⓞⓒⓐⓛⓗⓞⓢⓣ/",
        "http://ℓocalhost/",
        "http://\ud800.org/",
    ),
    *("http://a.org/\ud800", "http://a.org\u2100b.org/", "http://a.org／b", "http://a.org：80/", "http://a.org,b.org/"),
]
HOSTILE = [*(f"http://{literal}/latest/meta-data/" for literal in LITERALS), *FORMS]


@pytest.fixture
def connected(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Where somebody tried to connect to; nobody gets anywhere."""
    tried: list[Any] = []

    def connect(_: socket.socket, address: Any) -> None:
        tried.append(address)
        raise ConnectionRefusedError("nobody there")

    monkeypatch.setattr(socket.socket, "connect", connect)
    return tried


class Resolver:
    """Gives one answer after another, the last one for ever."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers, self.asked = list(answers), 0

    def __call__(self, host: str, port: int) -> list[str]:
        self.asked += 1
        return self.answers[min(self.asked, len(self.answers)) - 1]


def never_asked(host: str, port: int) -> list[str]:
    raise AssertionError(f"{host} was looked up")


def get(url: str, guard: Guard) -> int:
    return fetch(url, guard, lambda _: None, 1000, 5)


def test_the_list_of_hostile_urls_is_long() -> None:
    assert len(set(HOSTILE)) == len(HOSTILE) > 100


@pytest.mark.parametrize("url", HOSTILE)
def test_a_hostile_url_is_refused_before_anybody_is_asked_or_connected_to(url: str, connected: list[Any]) -> None:
    guard = Guard(ANY.hosts, ANY.schemes, lookup=never_asked)
    with pytest.raises(UrlDeniedError):
        get(url, guard)
    with pytest.raises(UrlDeniedError):
        post(url, guard, {}, b"", 5)
    assert connected == []


INSIDE = [
    *("127.0.0.1", "10.1.2.3", "169.254.169.254", "100.64.1.1", "0.0.0.0", "224.0.0.1", "192.0.2.1", "::1", "::"),
    *("fe80::1%eth0", "fe80::1", "fd12::1", "fd00:ec2::254", "::ffff:10.0.0.1", "::127.0.0.1", "64:ff9b::10.0.0.1"),
    *("2002:a00:1::", "2001:0:a00:1::", "ff02::1", "2001:db8::1"),
]


@pytest.mark.parametrize("inside", INSIDE)
@pytest.mark.parametrize("besides", [[], [PUBLIC], [PUBLIC, OTHER_PUBLIC]])
def test_a_name_that_leads_inside_even_besides_public_addresses_is_refused_without_saying_where(
    inside: str, besides: list[str], connected: list[Any]
) -> None:
    for found in ([*besides, inside], [inside, *besides]):
        resolver = Resolver(found)
        with pytest.raises(UrlDeniedError, match=r"'inside\.example' leads to") as caught:
            get("https://inside.example/clip.mp4", Guard(("*",), lookup=resolver))
        assert inside not in str(caught.value)
        assert resolver.asked == 1
    assert connected == []


def test_a_name_that_turns_inside_once_it_was_checked_is_still_connected_to_where_it_was_checked(
    connected: list[Any],
) -> None:
    resolver = Resolver([PUBLIC, OTHER_PUBLIC], ["127.0.0.1"])
    with pytest.raises(UrlFailedError, match="cannot be reached"):
        get("https://rebinding.example/clip.mp4", Guard(("*",), lookup=resolver))
    assert connected == [(PUBLIC, 443), (OTHER_PUBLIC, 443)]
    assert resolver.asked == 1


def test_a_name_that_nobody_knows_is_a_failure(connected: list[Any]) -> None:
    def unknown(host: str, port: int) -> list[str]:
        raise socket.gaierror("Name or service not known")

    for lookup in (unknown, Resolver([])):
        with pytest.raises(UrlFailedError, match=r"'gone\.example' cannot be found"):
            get("https://gone.example/", Guard(("*",), lookup=lookup))
    assert connected == []


def test_the_name_of_this_machine_itself_is_refused(connected: list[Any]) -> None:
    with pytest.raises(UrlDeniedError):
        get("https://localhost/", Guard(("*",)))
    assert connected == []


@pytest.mark.parametrize(
    ("url", "host", "port", "path"),
    [
        ("https://a.org", "a.org", 443, "/"),
        ("HTTPS://A.Org/Clip.mp4?a=%20b#part", "a.org", 443, "/Clip.mp4?a=%20b"),
        ("http://a.org:80?x", "a.org", 80, "/?x"),
        ("https://bücher.example/ä.mp4", "xn--bcher-kva.example", 443, "/%C3%A4.mp4"),
        ("https://a.org/@b:80//c", "a.org", 443, "/@b:80//c"),
        (f"https://{PUBLIC}/", PUBLIC, 443, "/"),
        (f"https://[{OTHER_PUBLIC.upper()}]/", OTHER_PUBLIC, 443, "/"),
        ("https://[64:ff9b::5db8:d70e]/", "64:ff9b::5db8:d70e", 443, "/"),
    ],
)
def test_a_sound_url_is_read_in_one_way(url: str, host: str, port: int, path: str) -> None:
    target = ANY.check(url)
    assert (target.host, target.port, target.path) == (host, port, path)


@pytest.mark.parametrize(
    ("pattern", "let_through", "refused"),
    [
        ("a.org", "https://a.org/", "https://b.a.org/"),
        ("A.org", "https://A.ORG/", "https://a.org.evil.example/"),
        ("a.org", "https://a.org/", "https://evila.org/"),
        ("a.org", "https://a.org:443/", "https://a.org:8443/"),
        ("*.a.org", "https://c.b.a.org/", "https://a.org/"),
        ("*.a.org", "https://b.a.org/", "https://evila.org/"),
        ("a.org:8443", "https://a.org:8443/", "https://a.org/"),
        ("a.org:*", "https://a.org:1/", "https://b.org:1/"),
        ("*:8443", "https://b.org:8443/", "https://b.org/"),
        ("*", "https://b.org/", "http://b.org/"),
        (PUBLIC, f"https://{PUBLIC}/", "https://93.184.215.15/"),
        (f"[{OTHER_PUBLIC}]:1", f"https://[{OTHER_PUBLIC}]:1/", f"https://[{OTHER_PUBLIC}]/"),
    ],
)
def test_only_the_hosts_and_ports_that_are_listed_are_let_through(pattern: str, let_through: str, refused: str) -> None:
    guard = Guard((pattern,))
    guard.check(let_through)
    with pytest.raises(UrlDeniedError, match="not accepted"):
        guard.check(refused)


def test_without_hosts_nothing_is_let_through() -> None:
    with pytest.raises(UrlDeniedError, match="none is"):
        Guard().check("https://a.org/")


def test_a_refusal_says_what_is_accepted() -> None:
    with pytest.raises(UrlDeniedError, match=r"'b\.org' is not accepted; accepted: a\.org, \*\.c\.org"):
        Guard(("a.org", "*.c.org")).check("https://b.org/")
    with pytest.raises(UrlDeniedError, match=r"scheme 'http' is not accepted; https is"):
        Guard(("*",)).check("http://b.org/")


@given(st.ip_addresses())
def test_no_address_that_is_not_global_is_ever_allowed(address: IPv4Address | IPv6Address) -> None:
    if not address.is_global or address.is_private or address.is_multicast:
        assert not allowed(address, private=False)


@given(st.ip_addresses())
def test_no_link_local_multicast_or_unspecified_address_is_allowed_even_in_closed_networks(
    address: IPv4Address | IPv6Address,
) -> None:
    if address.is_link_local or address.is_multicast or address.is_unspecified:
        assert not allowed(address, private=True)


@given(st.ip_addresses(v=4))
def test_no_disguise_of_an_address_passes_where_the_address_does_not(address: IPv4Address) -> None:
    number = int(address)
    a, b, c, d = address.packed
    disguises = [
        *(f"{address}", f"{number}", f"{number:#x}", f"0{number:o}", f"{a}.{number & 0xFFFFFF}", f"{address}."),
        *(f"{a:#x}.{b:#x}.{c:#x}.{d:#x}", f"0{a:o}.0{b:o}.0{c:o}.0{d:o}", f"{a}.{b}.{number & 0xFFFF}"),
        *(f"[::ffff:{address}]", f"[::{address}]", f"[64:ff9b::{address}]", f"[2002:{number >> 16:x}:{d:x}::]"),
    ]
    if not address.is_global or address.is_multicast:
        for disguise in disguises:
            with pytest.raises(UrlDeniedError):
                ANY.check(f"http://{disguise}/")


@pytest.mark.parametrize("text", [PUBLIC, OTHER_PUBLIC, "1.1.1.1", "8.8.8.8", "223.255.255.255", "64:ff9b::808:808"])
def test_public_addresses_are_allowed(text: str) -> None:
    assert allowed(ip_address(text), private=False)


@pytest.mark.parametrize(
    ("expected", "texts"),
    [
        (True, ("127.0.0.1", "10.0.0.1", "100.64.0.1", "fd12::1", "::1", "64:ff9b::a00:1")),
        (False, ("169.254.169.254", "fd00:ec2::254", "100.100.100.200", "64:ff9b::a9fe:a9fe", "fe80::1")),
        (False, ("fd20:ce::254", "fd00:ec2::23", "fd00:c1::a9fe:a9fe", "168.63.129.16")),
        (False, ("0.0.0.0", "::ffff:10.0.0.1", "255.255.255.255", "2002:a00:1::", "224.0.0.1")),
    ],
)
def test_a_closed_network_reaches_its_own_addresses_but_no_credentials(expected: bool, texts: tuple[str, ...]) -> None:
    assert [allowed(ip_address(text), private=True) for text in texts] == [expected] * len(texts)
