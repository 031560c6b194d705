"""Opens values as an application in Python does: PyPI's cryptography does the cryptography, and the layouts are taken apart here
by the settings of a reader.

Standard input: `[{"reader": {…}, "keys": [TEXT, …], "values": [BASE64, …]}, …]`. Standard output: the plaintexts, in base64.
"""

import base64
import json
import sys

from cryptography.fernet import Fernet, MultiFernet
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

DECODE = {
    "raw": bytes,
    "hex": lambda text: bytes.fromhex(text.decode()),
    "base64": lambda text: base64.b64decode(text, validate=True),
    "base64url": lambda text: base64.b64decode(text, altchars=b"-_", validate=True),
    "base64-unpadded": lambda text: base64.b64decode(padded(text), validate=True),
    "base64url-unpadded": lambda text: base64.b64decode(padded(text), altchars=b"-_", validate=True),
}


def padded(text):
    assert not text.endswith(b"=")
    return text + b"=" * (-len(text) % 4)


def key_of(reader, text):
    secret = {"text": str.encode, "hex": bytes.fromhex, "base64": base64.b64decode}[reader["key_encoding"]](text)
    salt = reader.get("salt", "").encode()
    derive = reader.get("derive", "")
    if derive.startswith("pbkdf2-"):
        digest = {"sha1": hashes.SHA1, "sha256": hashes.SHA256, "sha512": hashes.SHA512}[derive[7:]]()
        return PBKDF2HMAC(digest, 32, salt, reader["iterations"]).derive(secret)
    if derive == "hkdf-sha256":
        return HKDF(hashes.SHA256(), 32, salt or None, reader.get("info", "").encode()).derive(secret)
    if derive == "scrypt":
        return Scrypt(salt, 32, 16384, 8, 1).derive(secret)
    if derive == "sha256":
        digest = hashes.Hash(hashes.SHA256())
        digest.update(secret)
        return digest.finalize()
    return secret


def parts_of(reader, stored):
    """IV, and ciphertext with its tag."""
    prefix = reader.get("prefix", "").encode()
    assert stored.startswith(prefix)
    stored, decode, iv = stored[len(prefix) :], DECODE[reader["encoding"]], reader.get("iv_bytes", 12)
    order = reader.get("parts", ["iv", "ciphertext", "tag"])
    if "fields" in reader:
        members = json.loads(stored)
        assert sorted(members) == sorted(reader["fields"].values())
        parts = {part: decode(members[name].encode()) for part, name in reader["fields"].items()}
        if "iv" not in parts:
            parts["iv"], parts["ciphertext"] = parts["ciphertext"][:iv], parts["ciphertext"][iv:]
    elif "separator" in reader:
        parts = dict(zip(order, map(decode, stored.split(reader["separator"].encode())), strict=True))
    else:
        joined = decode(stored)
        lengths = {"iv": iv, "tag": 16, "ciphertext": len(joined) - iv - 16 * ("tag" in order)}
        parts = {}
        for part in order:
            parts[part], joined = joined[: lengths[part]], joined[lengths[part] :]
    assert len(parts["iv"]) == iv
    return parts["iv"], parts["ciphertext"] + parts.get("tag", b"")


def opener(reader, keys):
    if reader["format"] == "fernet":
        return (Fernet(keys[0]) if len(keys) == 1 else MultiFernet([Fernet(key) for key in keys])).decrypt
    gcm, context = AESGCM(key_of(reader, keys[0])), reader.get("associated_data", "").encode()

    def open_one(stored):
        iv, sealed = parts_of(reader, stored)
        return gcm.decrypt(iv, sealed, context)

    return open_one


opened = []
for case in json.load(sys.stdin):
    open_one = opener(case["reader"], case["keys"])
    opened.extend(base64.b64encode(open_one(base64.b64decode(value))).decode() for value in case["values"])
json.dump(opened, sys.stdout)
