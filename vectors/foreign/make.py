#!/usr/bin/env python3
"""Makes the vectors of this folder with the libraries and servers themselves. Run by hand: each run draws new nonces.

    make.py [MAKER ...]      all makers, or those of these names: python node crypto php ruby postgres

What each needs (see requirements.txt beside this file for Python):
  node      npm install @47ng/cloak@1.2.0, its node_modules named by NODE_PATH
  crypto    Node.js alone
  php       Debian's php-cli and php-illuminate-encryption
  ruby      Debian's ruby, ruby-i18n, ruby-tzinfo, ruby-concurrent, and checkouts of Rails v7.1.6 and Lockbox v2.1.0,
            named by RAILS and LOCKBOX: neither is in a registry that the tests use
  postgres  a server with pgcrypto, named by DATABASE_URL, and psql

The keys are for these vectors alone. A vector says what made it, the reader's settings as `enfold.toml` spells them, the
keys, keys that must not open it, and stored values with their plaintext.
"""

import base64
import hashlib
import json
import os
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).parent
TEXTS = ["", "a", "ann@example.com", "Zoë Müller, 東京 – 15 of March", "x" * 16, "The quick brown fox. " * 20]


def write(name, made_by, reader, keys, wrong_keys, values):
    case = {
        "made_by": made_by,
        "reader": reader,
        "keys": keys,
        "wrong_keys": wrong_keys,
        "values": values,
    }
    path = HERE / f"{name}.json"
    path.write_text(json.dumps(case, indent=2, ensure_ascii=False) + "\n")
    print(path.name, len(values), "values")


def text(stored, plaintext, **more):
    stored = stored.decode() if isinstance(stored, bytes) else stored
    return {"form": "text", "stored": stored, "plaintext": plaintext, **more}


def binary(stored, plaintext, **more):
    return {"form": "bytes", "stored_hex": bytes(stored).hex(), "plaintext": plaintext, **more}


def python():
    from importlib.metadata import version

    from cryptography.fernet import Fernet, MultiFernet

    made_by = f"cryptography {version('cryptography')} (PyPI)"
    keys = [base64.urlsafe_b64encode(hashlib.sha256(b"fernet %d" % n).digest()).decode() for n in range(3)]
    one = Fernet(keys[0])
    values = [text(one.encrypt(t.encode()), t) for t in TEXTS]
    values.append(binary(one.encrypt(b"ann"), "ann"))
    write("fernet", made_by, {"format": "fernet"}, keys[:1], keys[1:2], values)
    many = MultiFernet([Fernet(keys[1]), Fernet(keys[0])])
    values = [text(one.encrypt(b"of the old key"), "of the old key"), text(many.encrypt(b"of the new"), "of the new")]
    write("fernet_many", made_by, {"format": "fernet"}, [keys[1], keys[0]], keys[2:], values)

    gcm(made_by)
    sqlalchemy()
    django()


def gcm(made_by):
    """Layouts as people write them: the library does the cryptography, and the layout is put together here."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF
    from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC
    from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

    raw = hashlib.sha256(b"an application's key").digest()
    other = hashlib.sha256(b"another key").digest()

    def sealed(key, plaintext, aad=b""):
        iv = os.urandom(12)
        body = AESGCM(key).encrypt(iv, plaintext.encode(), aad)
        return {"iv": iv, "ciphertext": body[:-16], "tag": body[-16:]}

    def joined(parts, order, separator=b""):
        return separator.join(parts[name] for name in order)

    def case(name, reader, key, keys, wrong, stored, aad=b"", form=text):
        values = [form(stored(sealed(key, t, aad)), t) for t in TEXTS]
        write(f"aes_gcm_{name}", made_by, {"format": "aes-256-gcm", **reader}, keys, wrong, values)

    order = ["iv", "ciphertext", "tag"]
    case(
        "base64",
        {"encoding": "base64", "key_encoding": "hex"},
        raw,
        [raw.hex()],
        [other.hex()],
        lambda p: base64.b64encode(joined(p, order)),
    )
    turned = ["iv", "tag", "ciphertext"]
    case(
        "hex_tag_before_ciphertext",
        {"encoding": "hex", "key_encoding": "base64", "parts": turned},
        raw,
        [base64.b64encode(raw).decode()],
        [base64.b64encode(other).decode()],
        lambda p: joined(p, turned).hex(),
    )
    case(
        "bytes",
        {"encoding": "raw", "key_encoding": "hex"},
        raw,
        [raw.hex()],
        [other.hex()],
        lambda p: joined(p, order),
        form=binary,
    )
    case(
        "base64url_prefix_and_context",
        {"encoding": "base64url", "prefix": "enc:v1:", "key_encoding": "hex", "associated_data": "users.email"},
        raw,
        [raw.hex()],
        [other.hex()],
        lambda p: b"enc:v1:" + base64.urlsafe_b64encode(joined(p, order)).rstrip(b"="),
        aad=b"users.email",
    )
    case(
        "hex_parts_with_colons",
        {"encoding": "hex", "separator": ":", "parts": turned, "key_encoding": "text", "derive": "sha256"},
        hashlib.sha256(b"correct horse battery staple").digest(),
        ["correct horse battery staple"],
        ["correct horse battery stapler"],
        lambda p: ":".join(p[name].hex() for name in turned),
    )
    fields = {"iv": "iv", "ciphertext": "content", "tag": "authTag"}
    key = Scrypt(salt=b"salt", length=32, n=16384, r=8, p=1).derive(b"a passphrase")
    case(
        "json_scrypt",
        {"encoding": "hex", "fields": fields, "key_encoding": "text", "derive": "scrypt", "salt": "salt"},
        key,
        ["a passphrase"],
        ["a passphrasE"],
        lambda p: json.dumps({fields[n]: p[n].hex() for n in ["iv", "ciphertext", "tag"]}),
    )
    key = PBKDF2HMAC(algorithm=hashes.SHA256(), length=32, salt=b"pepper", iterations=100000).derive(b"a passphrase")
    case(
        "pbkdf2_sha256",
        {
            "encoding": "base64",
            "key_encoding": "text",
            "derive": "pbkdf2-sha256",
            "salt": "pepper",
            "iterations": 100000,
        },
        key,
        ["a passphrase"],
        ["another"],
        lambda p: base64.b64encode(joined(p, order)),
    )
    key = PBKDF2HMAC(algorithm=hashes.SHA512(), length=32, salt=b"pepper", iterations=10000).derive(b"a passphrase")
    case(
        "pbkdf2_sha512",
        {
            "encoding": "base64",
            "key_encoding": "text",
            "derive": "pbkdf2-sha512",
            "salt": "pepper",
            "iterations": 10000,
        },
        key,
        ["a passphrase"],
        ["another"],
        lambda p: base64.b64encode(joined(p, order)),
    )
    key = HKDF(algorithm=hashes.SHA256(), length=32, salt=b"salt", info=b"email").derive(raw)
    case(
        "hkdf",
        {"encoding": "base64", "key_encoding": "hex", "derive": "hkdf-sha256", "salt": "salt", "info": "email"},
        key,
        [raw.hex()],
        [other.hex()],
        lambda p: base64.b64encode(joined(p, order)),
    )


def sqlalchemy():
    from importlib.metadata import version

    from sqlalchemy_utils.types.encrypted.encrypted_type import AesEngine, AesGcmEngine, FernetEngine

    made_by = f"SQLAlchemy-Utils {version('sqlalchemy-utils')} (PyPI)"
    key, wrong = "a secret of the application", "another secret"

    def engine(kind, padding=None):
        made = kind()
        made._update_key(key)
        if padding:
            made._set_padding_mechanism(padding)
        return made

    for kind, word in [(FernetEngine, "fernet"), (AesGcmEngine, "aes-gcm")]:
        values = [text(engine(kind).encrypt(t), t) for t in TEXTS]
        reader = {"format": f"sqlalchemy-utils-{word}"}
        write(f"sqlalchemy_utils_{word.replace('-', '_')}", made_by, reader, [key], [wrong], values)
    for padding in ["naive", "pkcs5", "oneandzeroes", "zeroes"]:
        values = [text(engine(AesEngine, padding).encrypt(t), t) for t in TEXTS]
        reader = {"format": "sqlalchemy-utils-aes", "padding": padding}
        write(f"sqlalchemy_utils_aes_{padding}", made_by, reader, [key], [wrong], values)


def django():
    from importlib.metadata import version

    from django.conf import settings

    secret = "django-insecure-a-secret-key-of-some-length"
    settings.configure(SECRET_KEY=secret, FERNET_KEYS=["new key", "old key"])
    # django-cryptography 1.1 wants a module that Django has moved since.
    from django import utils

    try:
        from django.utils import baseconv  # noqa: F401
    except ImportError:
        import types

        utils.baseconv = types.ModuleType("baseconv")
        sys.modules["django.utils.baseconv"] = utils.baseconv
    import pickle

    from django_cryptography.utils.crypto import FernetBytes

    made_by = f"django-cryptography {version('django-cryptography')} on Django {version('django')} (PyPI)"
    values = [binary(FernetBytes().encrypt(pickle.dumps(t)), t) for t in TEXTS]
    values += [binary(FernetBytes().encrypt(pickle.dumps("old pickle", protocol=p)), "old pickle") for p in range(2, 6)]
    values.append(binary(FernetBytes().encrypt(pickle.dumps(b"\x00\xff")), None, plaintext_hex="00ff"))
    write("django_cryptography", made_by, {"format": "django-cryptography"}, [secret], [secret + "x"], values)
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC

    # What its configuration makes of CRYPTOGRAPHY_KEY and CRYPTOGRAPHY_SALT (conf.py, configure).
    key = PBKDF2HMAC(algorithm=hashes.SHA256(), length=32, salt=b"own salt", iterations=30000).derive(b"own key")
    values = [binary(FernetBytes(key).encrypt(pickle.dumps(t)), t) for t in TEXTS]
    reader = {"format": "django-cryptography", "salt": "own salt"}
    write("django_cryptography_own_key", made_by, reader, [secret, "own key"], [secret, "other"], values)

    from fernet_fields.fields import EncryptedField

    made_by = f"django-fernet-fields-v2 {version('django-fernet-fields-v2')} on Django {version('django')} (PyPI)"
    field = EncryptedField()
    values = [binary(field.fernet.encrypt(t.encode()), t) for t in TEXTS]
    from cryptography.fernet import Fernet
    from fernet_fields.hkdf import derive_fernet_key

    values.append(binary(Fernet(derive_fernet_key("old key")).encrypt(b"of the old key"), "of the old key"))
    write("django_fernet_fields", made_by, {"format": "django-fernet-fields"}, ["new key", "old key"], ["x"], values)


def node():
    for line in run(["node", str(HERE / "make.cjs")]):
        write(**line)


def crypto():
    for line in run(["node", str(HERE / "crypto.cjs")]):
        write(**line)


def php():
    for line in run(["php", str(HERE / "make.php")]):
        write(**line)


def ruby():
    for line in run(["ruby", str(HERE / "make.rb")]):
        write(**line)


def run(command):
    done = subprocess.run(command, check=False, input=json.dumps(TEXTS), capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{command[0]}: {done.stderr}")
    return [json.loads(line) for line in done.stdout.splitlines()]


def postgres():
    def sql(query):
        command = ["psql", os.environ["DATABASE_URL"], "-XAtqc", query]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stderr)
        return done.stdout.rstrip("\n")

    sql("CREATE EXTENSION IF NOT EXISTS pgcrypto")
    release = sql("SHOW server_version").split()[0]
    extension = sql("SELECT extversion FROM pg_extension WHERE extname = 'pgcrypto'")
    made_by = f"pgcrypto {extension} of PostgreSQL {release}"
    key, wrong = "a passphrase", "another"

    def quoted(value):
        return "'" + value.replace("'", "''") + "'"

    def sealed(value, options, around="{}"):
        return sql(f"SELECT {around.format(f'pgp_sym_encrypt({quoted(value)}, {quoted(key)}, {quoted(options)})')}")

    def hexed(value, options):
        return bytes.fromhex(sealed(value, options, "encode({}, 'hex')"))

    options = [
        "",
        "cipher-algo=aes256",
        "cipher-algo=aes192",
        "s2k-mode=1",
        "s2k-mode=0",
        "s2k-count=1048576",
        "compress-algo=1",
        "compress-algo=2",
        "compress-algo=2, compress-level=9",
        "sess-key=1",
        "sess-key=1, cipher-algo=aes256",
        "unicode-mode=1",
        "s2k-cipher-algo=aes256, sess-key=1",
    ]
    values = [binary(hexed(t, ""), t) for t in TEXTS]
    values += [binary(hexed(t, o), t, options=o) for o in options[1:] for t in TEXTS[2:]]
    # Longer than the buffer in which pgcrypto cuts a packet into parts.
    long = "0123456789abcdef" * 1500
    values.append(binary(hexed(long, ""), long))
    values.append(binary(hexed(long, "compress-algo=1, cipher-algo=aes256"), long))
    made = sql(f"SELECT encode(pgp_sym_encrypt_bytea('\\x00ff'::bytea, {quoted(key)}), 'hex')")
    values.append(binary(bytes.fromhex(made), None, plaintext_hex="00ff"))
    write("pgcrypto", made_by, {"format": "pgcrypto"}, [key], [wrong], values)
    values = [text(sealed(t, "", "armor({})"), t) for t in TEXTS]
    write("pgcrypto_armor", made_by, {"format": "pgcrypto", "encoding": "armor"}, [key], [wrong], values)
    values = [text(sealed(t, "", "encode({}, 'base64')"), t) for t in TEXTS]
    write("pgcrypto_base64", made_by, {"format": "pgcrypto", "encoding": "base64"}, [key], [wrong], values)
    values = [text(sealed(t, "", "encode({}, 'hex')"), t) for t in TEXTS]
    write("pgcrypto_hex", made_by, {"format": "pgcrypto", "encoding": "hex"}, [key], [wrong], values)
    values = [binary(hexed(t, "disable-mdc=1"), t) for t in TEXTS[2:4]]
    values += [binary(hexed("Ann", f"cipher-algo={c}"), "Ann") for c in ["bf", "3des", "cast5"]]
    write("pgcrypto_refused", made_by, {"format": "pgcrypto"}, [key], [wrong], values)


if __name__ == "__main__":
    makers = {"python": python, "node": node, "crypto": crypto, "php": php, "ruby": ruby, "postgres": postgres}
    for name in sys.argv[1:] or makers:
        makers[name]()
