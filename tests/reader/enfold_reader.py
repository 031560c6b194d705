"""A reader of Enfold's envelopes, written from docs/format.md alone on the `cryptography` package.

It opens and refuses; it seals nothing. It exists to prove that the page is enough, so it shares no code, no library and
no language with Enfold. Environment: scripts/requirements.txt.
"""

import base64
import binascii
import hmac
import json
import unicodedata
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

MAGIC = b"\xf9\xe9\xdf"
VERSION = 1
SUITE = 1
BY_REFERENCE, INLINE_RING, INLINE_ROOT = 1, 2, 3
PAYLOADS = {1: "bytes", 2: "text", 3: "json"}
MOST_CIPHERTEXT = 2**30 + 2**20
PREFIX = "enf1:"

VALUE, WRAP, ROW_TAG, INDEX = 1, 2, 3, 4
RING, COLUMN, TENANT, ROW_KEY, INDEX_NAME, INDEX_VALUE, FIELD = 1, 2, 3, 4, 5, 6, 7
TEXT, INTEGER, UUID, BYTES = 1, 2, 3, 4

ALPHABET = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
# The property White_Space. Python's own str.strip() takes four control characters more (U+001C to U+001F).
WHITE_SPACE = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))


class Refused(Exception):
    """Why a cell does not open; `word` is the vectors' word for it."""

    def __init__(self, word):
        super().__init__(word)
        self.word = word


@dataclass(frozen=True)
class Envelope:
    kind: int
    key_id: bytes
    payload: str
    padded: bool
    wrapped: bytes | None
    salt: bytes
    commitment: bytes
    header: bytes
    nonce: bytes
    body: bytes


def parse(data: bytes) -> Envelope:
    """The layout of the page; every refusal of step 1."""
    if not data.startswith(MAGIC):
        raise Refused("malformed")
    version = at(data, 3)
    if version == 0:
        raise Refused("malformed")
    if version != VERSION:
        raise Refused("newer-version")
    suite, kind = at(data, 4) >> 4, at(data, 4) & 15
    if suite != SUITE:
        raise Refused("unknown-suite")
    payload, padding = at(data, 21), at(data, 22)
    if kind not in (BY_REFERENCE, INLINE_RING, INLINE_ROOT) or payload not in PAYLOADS or padding not in (0, 1):
        raise Refused("malformed")
    wrapped, salt_at = None, 23
    if kind != BY_REFERENCE:
        length = at(data, 23) << 8 | at(data, 24)
        wrapped, salt_at = data[25 : 25 + length], 25 + length
        if length == 0:
            raise Refused("malformed")
    header_length = salt_at + 16 + 32
    ciphertext = len(data) - header_length - 12 - 16
    if not padding <= ciphertext <= MOST_CIPHERTEXT:
        raise Refused("malformed")
    return Envelope(
        kind=kind,
        key_id=data[5:21],
        payload=PAYLOADS[payload],
        padded=padding == 1,
        wrapped=wrapped,
        salt=data[salt_at : salt_at + 16],
        commitment=data[salt_at + 16 : header_length],
        header=data[:header_length],
        nonce=data[header_length : header_length + 12],
        body=data[header_length + 12 :],
    )


def at(data: bytes, offset: int) -> int:
    if offset >= len(data):
        raise Refused("malformed")
    return data[offset]


def from_cell(form: str, stored: bytes | str) -> bytes:
    """The binary form in a cell of any form."""
    if form == "binary":
        return stored
    if form == "text":
        return from_text(stored)
    document = json.loads(stored, object_pairs_hook=one_member)
    text = document.get("enf") if isinstance(document, dict) else document
    if not isinstance(text, str):
        raise Refused("malformed")
    return from_text(text)


def one_member(pairs):
    if [name for name, _ in pairs].count("enf") > 1:
        raise Refused("malformed")
    return dict(pairs)


def from_text(text: str) -> bytes:
    if not text.startswith(PREFIX):
        raise Refused("malformed")
    encoded = text[len(PREFIX) :].encode()
    if not set(encoded) <= ALPHABET:
        raise Refused("malformed")
    try:
        decoded = base64.urlsafe_b64decode(encoded + b"=" * (-len(encoded) % 4))
    except binascii.Error:
        raise Refused("malformed") from None
    # Whatever is not the one spelling comes out differently when it is spelt again.
    if base64.urlsafe_b64encode(decoded).rstrip(b"=") != encoded:
        raise Refused("malformed")
    return decoded


def derive(key: bytes, key_id: bytes, purpose: int, salt: bytes, context: bytes = b"") -> tuple[bytes, bytes]:
    """Key and commitment."""
    info = b"enfold/v1" + bytes([SUITE, purpose]) + key_id + context
    okm = HKDF(algorithm=hashes.SHA256(), length=64, salt=salt, info=info).derive(key)
    return okm[:32], okm[32:]


def encode(role: int, kind: int, data: bytes) -> bytes:
    return bytes([role, kind]) + len(data).to_bytes(8, "big") + data


def text_part(role: int, text: str) -> bytes:
    return encode(role, TEXT, text.encode())


def integer_part(role: int, value: int) -> bytes:
    return encode(role, INTEGER, value.to_bytes(8, "big", signed=True))


def part(role: int, given: dict) -> bytes:
    """A part as a vector spells it: an object with one member."""
    [(kind, value)] = given.items()
    match kind:
        case "text":
            return text_part(role, value)
        case "int":
            return integer_part(role, int(value))
        case "uuid":
            return encode(role, UUID, bytes.fromhex(value))
        case "bytes":
            return encode(role, BYTES, bytes.fromhex(value))
    raise ValueError(kind)


def binding(ring: str, column: str, tenant: dict | None, row_key: list[dict]) -> bytes:
    parts = [text_part(RING, ring), text_part(COLUMN, column)]
    if tenant is not None:
        parts.append(part(TENANT, tenant))
    return b"".join(parts + [part(ROW_KEY, component) for component in row_key])


def open_envelope(envelope: Envelope, key: bytes, key_id: bytes, place: bytes) -> bytes:
    """The value. For kind 3 `key` is what the key service answered for the wrapped key."""
    if envelope.key_id != key_id:
        raise Refused("key-mismatch")
    if envelope.kind == INLINE_RING:
        key = unwrap(envelope.wrapped, key, key_id, place)
    subkey, commitment = derive(key, key_id, VALUE, envelope.salt)
    value = decrypt(subkey, commitment, envelope.commitment, envelope.nonce, envelope.body, envelope.header + place)
    return unpad(value) if envelope.padded else value


def unwrap(wrapped: bytes, key: bytes, key_id: bytes, context: bytes) -> bytes:
    if len(wrapped) != 108:
        raise Refused("open-failed")
    salt, carried, nonce, body = wrapped[:16], wrapped[16:48], wrapped[48:60], wrapped[60:]
    subkey, commitment = derive(key, key_id, WRAP, salt)
    return decrypt(subkey, commitment, carried, nonce, body, salt + carried + context)


def decrypt(key: bytes, commitment: bytes, carried: bytes, nonce: bytes, body: bytes, associated: bytes) -> bytes:
    if not hmac.compare_digest(commitment, carried):
        raise Refused("open-failed")
    try:
        return AESGCM(key).decrypt(nonce, body, associated)
    except InvalidTag:
        raise Refused("open-failed") from None


def unpad(padded: bytes) -> bytes:
    value = padded.rstrip(b"\0")
    if not value.endswith(b"\x80"):
        raise Refused("open-failed")
    return value[:-1]


def blind_index(
    key: bytes, key_id: bytes, ring: str, columns: list[str], name: str, steps: list, bits: int, cross_tenant: bool,
    generation: int, tenant: dict | None, values: list[str],
) -> bytes:  # fmt: skip
    context = text_part(RING, ring) + b"".join(text_part(COLUMN, column) for column in columns)
    context += text_part(INDEX_NAME, name) + integer_part(FIELD, generation) + integer_part(FIELD, 1)
    context += encode(FIELD, BYTES, b"".join(step_code(step) for step in steps))
    context += integer_part(FIELD, bits) + integer_part(FIELD, int(cross_tenant))
    message = b"" if tenant is None or cross_tenant else part(TENANT, tenant)
    for value in values:
        for step in steps:
            value = normalise(step, value)
        message += text_part(INDEX_VALUE, value)
    mac_key, _ = derive(key, key_id, INDEX, bytes(16), context)
    kept = int.from_bytes(hmac.digest(mac_key, message, "sha256"), "big") >> (256 - bits)
    length = (bits + 7) // 8
    return generation.to_bytes(2, "big") + (kept << (length * 8 - bits)).to_bytes(length, "big")


def step_code(step: str | dict) -> bytes:
    plain = {"trim": 1, "lower": 2, "nfkc": 3, "digits": 4, "email": 5}
    if isinstance(step, str):
        return bytes([plain[step], 0, 0])
    [(name, n)] = step.items()
    return bytes([{"last": 6, "word_prefix": 7}[name]]) + n.to_bytes(2, "big")


def normalise(step: str | dict, text: str) -> str:
    match step:
        case "trim":
            return text.strip(WHITE_SPACE)
        case "lower":
            return text.lower()
        case "nfkc":
            return unicodedata.normalize("NFKC", text)
        case "digits":
            return "".join(c for c in text if c in "0123456789")
        case "email":
            return unicodedata.normalize("NFKC", text).strip(WHITE_SPACE).lower()
        case {"last": n}:
            return text[len(text) - min(n, len(text)) :]
        case {"word_prefix": n}:
            spaced = "".join(" " if c in WHITE_SPACE else c for c in text)
            return " ".join(word[:n] for word in spaced.split(" ") if word)
    raise ValueError(step)


def row_tag(key: bytes, key_id: bytes, fields: list[dict]) -> tuple[bytes, bytes]:
    """Tag and check value."""
    mac_key, check_value = derive(key, key_id, ROW_TAG, bytes(16))
    return hmac.digest(mac_key, b"".join(part(FIELD, field) for field in fields), "sha256"), check_value
