"""Signatures as Standard Webhooks has them, against its published example and a computation of our own."""

from __future__ import annotations

import base64
import hashlib
import hmac

import pytest

from service.errors import InvalidOptions
from service.webhooks.signing import Signer

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
NEXT = "whsec_" + base64.b64encode(bytes(range(32))).decode()


def test_the_published_example_is_signed_as_published() -> None:
    headers = Signer([SECRET]).headers("msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330.9, b'{"test": 2432232314}')
    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


def test_while_secrets_change_a_receiver_of_either_knows_the_sender() -> None:
    body = '{"label":"Straße"}'.encode()
    signatures = Signer([NEXT, SECRET]).headers("msg_1", 1700000000, body)["webhook-signature"].split(" ")
    for secret, signature in zip((NEXT, SECRET), signatures, strict=True):
        key = base64.b64decode(secret[6:])
        expected = hmac.new(key, b"msg_1.1700000000." + body, hashlib.sha256).digest()
        assert signature == "v1," + base64.b64encode(expected).decode()


@pytest.mark.parametrize(
    "secret",
    [
        SECRET.removeprefix("whsec_"),
        "whsec_" + base64.b64encode(bytes(23)).decode(),
        "whsec_" + base64.b64encode(bytes(65)).decode(),
        "whsec_not base64!",
        "whsec_" + "Ü" * 40,
        "whsec_",
    ],
)
def test_what_is_no_secret_is_refused_and_not_repeated(secret: str) -> None:
    with pytest.raises(InvalidOptions, match="webhook secret 2 is not whsec_") as refused:
        Signer([SECRET, secret])
    assert secret in {"whsec_", ""} or secret not in str(refused.value)


def test_keys_of_24_to_64_bytes_are_secrets() -> None:
    for size in (24, 64):
        assert Signer(["whsec_" + base64.b64encode(bytes(size)).decode()])
    assert not Signer()
