"""Ed25519: a valid signature verifies; malleable, truncated, malformed and foreign ones do not."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from chio_core.errors import InvalidDocument
from chio_core.signing import SigningKey, normalize_public_key, verify_signature
from tests.core.reference import vectors

ORDER = 2**252 + 27742317777372353535851937790883648493
FIELD = 2**255 - 19
KEY = SigningKey(bytes(range(32)))
MESSAGE = b"a message"
SIGNATURE = KEY.sign(MESSAGE)

# The eight points of small order, and encodings of such points that are not reduced (RFC 8032, section 5.1.3).
SMALL_ORDER = [
    "0100000000000000000000000000000000000000000000000000000000000000",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0000000000000000000000000000000000000000000000000000000000000080",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
    "0100000000000000000000000000000000000000000000000000000000000080",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
]


def test_a_signature_verifies_and_is_the_one_of_another_implementation() -> None:
    assert verify_signature(KEY.public_hex, MESSAGE, SIGNATURE)
    assert Ed25519PrivateKey.from_private_bytes(bytes(range(32))).sign(MESSAGE).hex() == SIGNATURE


def test_the_worked_vector_of_the_standard_holds() -> None:
    # RFC 8032, section 7.1, test 2.
    key = SigningKey.from_seed_hex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
    assert key.public_hex == "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"
    assert key.sign(b"\x72") == (
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
    )


def test_every_case_of_wycheproof_has_its_result() -> None:
    cases = vectors("wycheproof/ed25519")["cases"]
    for case in cases:
        found = verify_signature(case["public_key"], bytes.fromhex(case["message"]), case["signature"])
        assert found is case["valid"], case["case"]
    assert (sum(case["valid"] for case in cases), len(cases)) == (88, 88 + 63)


def test_another_message_or_key_does_not_verify() -> None:
    assert not verify_signature(KEY.public_hex, MESSAGE + b".", SIGNATURE)
    assert not verify_signature(SigningKey.generate().public_hex, MESSAGE, SIGNATURE)


def test_every_single_bit_of_a_signature_and_key_counts() -> None:
    for bit in range(512):
        changed = bytearray(bytes.fromhex(SIGNATURE))
        changed[bit // 8] ^= 1 << bit % 8
        assert not verify_signature(KEY.public_hex, MESSAGE, changed.hex())
    for bit in range(256):
        changed = bytearray(bytes.fromhex(KEY.public_hex))
        changed[bit // 8] ^= 1 << bit % 8
        assert not verify_signature(changed.hex(), MESSAGE, SIGNATURE)


@pytest.mark.parametrize("times", [1, 2, 7, 15])
def test_a_scalar_that_is_not_reduced_does_not_verify(times: int) -> None:
    raw = bytes.fromhex(SIGNATURE)
    scalar = int.from_bytes(raw[32:], "little") + times * ORDER
    if scalar < 2**256:
        assert not verify_signature(KEY.public_hex, MESSAGE, (raw[:32] + scalar.to_bytes(32, "little")).hex())
    zero = (times * ORDER).to_bytes(33, "little")[:32]
    assert not verify_signature(KEY.public_hex, MESSAGE, (raw[:32] + zero).hex())


def test_a_key_of_small_order_verifies_nothing() -> None:
    # Under such a key, a lenient verifier accepts a signature of this form for one message in eight, or for all.
    for key, point, message in itertools.product(SMALL_ORDER, SMALL_ORDER, (b"", MESSAGE, b"another")):
        assert not verify_signature(key, message, point + "00" * 32), (key, point, message)


@pytest.mark.parametrize("point", SMALL_ORDER)
def test_a_commitment_of_small_order_does_not_verify(point: str) -> None:
    assert not verify_signature(KEY.public_hex, MESSAGE, point + SIGNATURE[64:])


def test_a_point_that_is_not_reduced_is_no_key() -> None:
    for value in range(FIELD, 2**255):
        key = value.to_bytes(32, "little").hex()
        assert not verify_signature(key, MESSAGE, SIGNATURE)


MALFORMED: list[Any] = [
    "", "00", "zz" * 64, SIGNATURE.upper(), SIGNATURE[:-1], SIGNATURE[:-2], SIGNATURE + "00", SIGNATURE + " ",
    " " + SIGNATURE, "0x" + SIGNATURE, SIGNATURE[:-1] + "\u0660", SIGNATURE[:-1] + "g", "p256:" + SIGNATURE,
    "p384:" + "30" * 70, None, 5, True, [SIGNATURE], {"hex": SIGNATURE}, SIGNATURE.encode(),
]  # fmt: skip


@pytest.mark.parametrize("signature", MALFORMED, ids=repr)
def test_a_malformed_signature_does_not_verify(signature: Any) -> None:
    assert not verify_signature(KEY.public_hex, MESSAGE, signature)


@pytest.mark.parametrize(
    "key",
    [
        "", "00", "zz" * 32, KEY.public_hex[:-1], KEY.public_hex + "00", "p256:04" + "11" * 64, "p384:04" + "11" * 96,
        None, 5, True, [KEY.public_hex], KEY.public_hex.encode(), "0x0x" + KEY.public_hex,
    ],
    ids=repr,
)  # fmt: skip
def test_a_malformed_key_does_not_verify(key: Any) -> None:
    assert not verify_signature(key, MESSAGE, SIGNATURE)


def test_a_public_key_may_be_written_with_a_prefix_and_in_capitals() -> None:
    for text in (KEY.public_hex, "0x" + KEY.public_hex, KEY.public_hex.upper(), f" {KEY.public_hex}\n"):
        assert normalize_public_key(text) == KEY.public_hex


@pytest.mark.parametrize("text", ["", "0x", "12", "g" * 64, "ab" * 33, "\uff11" * 64])
def test_a_malformed_public_key_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(InvalidDocument, match="64 hex digits") as refused:
        normalize_public_key(text)
    assert len(text) < 3 or text not in str(refused.value)


def test_a_seed_is_read_in_the_same_forms() -> None:
    seed = "42" * 32
    assert SigningKey.from_seed_hex(f"0x{seed.upper()}\n").seed_hex() == seed


@pytest.mark.parametrize("text", ["", "42", "zz" * 32, "42" * 33])
def test_a_malformed_seed_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(InvalidDocument) as refused:
        SigningKey.from_seed_hex(text)
    assert str(refused.value) == "a signing key is written as 64 hex digits"


def test_a_seed_of_another_length_is_refused() -> None:
    with pytest.raises(InvalidDocument, match="has 31"):
        SigningKey(b"\x01" * 31)


def test_a_key_never_shows_its_seed() -> None:
    key = SigningKey.from_seed_hex("5e" * 32)
    for text in (repr(key), str(key), f"{key}"):
        assert "5e5e" not in text
        assert key.public_hex in text


def test_two_generated_keys_differ() -> None:
    assert SigningKey.generate().public_hex != SigningKey.generate().public_hex
