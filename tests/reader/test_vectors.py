"""Every case of vectors/ through the reader of this folder. One case, one test, by the file's name."""

import json
import pathlib

import enfold_reader as reader
import pytest

VECTORS = pathlib.Path(__file__).parents[2] / "vectors"
CASES = {path.stem: json.loads(path.read_text()) for path in sorted(VECTORS.glob("*.json"))}


def cases(does, **wanted):
    chosen = {
        name: case
        for name, case in CASES.items()
        if case["does"] == does and all(case[field] == value for field, value in wanted.items())
    }
    assert chosen, f"no vectors for {does} {wanted}"
    return pytest.mark.parametrize("case", chosen.values(), ids=chosen.keys())


def unhex(case, field):
    return bytes.fromhex(case[field])


def place(case):
    given = case["binding"]
    return reader.binding(given["ring"], given["column"], given.get("tenant"), given.get("row_key", []))


def envelope_of(case):
    stored = unhex(case, "stored") if case["form"] == "binary" else case["stored"]
    return reader.parse(reader.from_cell(case["form"], stored))


def opened(case):
    envelope = envelope_of(case)
    key = unhex(case, "record_key" if envelope.kind == reader.INLINE_ROOT else "data_key")
    return envelope.payload, reader.open_envelope(envelope, key, unhex(case, "key_id"), place(case))


@cases("open", result="opens")
def test_opens(case):
    assert opened(case) == (case["payload"], unhex(case, "plaintext"))


@cases("open", result="refused")
def test_is_refused(case):
    with pytest.raises(reader.Refused) as refused:
        opened(case)
    assert refused.value.word == case["error"]


@cases("open", result="opens", form="binary")
def test_the_steps_between_are_as_the_page_says(case):
    envelope = envelope_of(case)
    assert envelope.header + place(case) == unhex(case, "associated_data")
    if envelope.kind == reader.BY_REFERENCE:
        subkey, commitment = reader.derive(unhex(case, "data_key"), envelope.key_id, reader.VALUE, envelope.salt)
        assert (subkey, commitment) == (unhex(case, "subkey"), envelope.commitment)


@cases("open", result="opens", form="binary")
def test_every_changed_byte_is_refused(case):
    stored = unhex(case, "stored")
    for at in range(len(stored)):
        changed = bytearray(stored)
        changed[at] ^= 0x40
        with pytest.raises(reader.Refused):
            opened(case | {"stored": changed.hex()})


@cases("index")
def test_index(case):
    value = reader.blind_index(
        unhex(case, "index_key"),
        unhex(case, "key_id"),
        case["ring"],
        case["columns"],
        case["name"],
        case["normalise"],
        case["bits"],
        case["cross_tenant"],
        case["generation"],
        case.get("tenant"),
        case["values"],
    )
    assert value == unhex(case, "index")


@cases("unwrap", result="opens")
def test_unwraps(case):
    context = b"".join(reader.part(reader.FIELD, field) for field in case["fields"])
    unwrapped = reader.unwrap(unhex(case, "wrapped"), unhex(case, "data_key"), unhex(case, "key_id"), context)
    assert unwrapped == unhex(case, "key")


@cases("unwrap", result="refused")
def test_does_not_unwrap(case):
    context = b"".join(reader.part(reader.FIELD, field) for field in case["fields"])
    with pytest.raises(reader.Refused):
        reader.unwrap(unhex(case, "wrapped"), unhex(case, "data_key"), unhex(case, "key_id"), context)


@cases("tag")
def test_tag(case):
    tag, check_value = reader.row_tag(unhex(case, "data_key"), unhex(case, "key_id"), case["fields"])
    assert (tag, check_value) == (unhex(case, "tag"), unhex(case, "check_value"))
