//! Readers on values that other products' own code made.

use enfold_core::Form;
use enfold_core::readers::{Error, Foreign, Reader, Scrypt, fits};
use proptest::prelude::*;

use crate::vectors::{Case, cases, secret};

#[test]
fn every_value_of_every_format_is_recognised_and_opens() {
    let mut opened = 0;
    for case in cases().iter().filter(|case| !case.is_refused()) {
        assert!(case.format.is_authenticated() || case.name.starts_with("sqlalchemy_utils_aes_"), "{}", case.name);
        let reader = case.reader();
        for stored in &case.values {
            assert!(case.format.recognises(&stored.value()), "{}: {:?}", case.name, stored.plaintext);
            let plaintext = reader.open(&stored.value()).unwrap_or_else(|error| panic!("{}: {error}", case.name));
            assert_eq!(&plaintext[..], stored.plaintext, "{}", case.name);
            assert!(fits(stored.form, &plaintext), "{}", case.name);
            opened += 1;
        }
    }
    assert!(opened >= 320, "{opened}");
}

#[test]
fn under_a_wrong_key_no_value_opens() {
    for case in &cases() {
        let reader = case.format.with_keys(&case.wrong_keys).unwrap();
        for stored in &case.values {
            assert!(reader.open(&stored.value()).is_err(), "{}: {:?}", case.name, stored.plaintext);
        }
    }
}

/// In every byte, each of its bits. What no longer begins like one of the format may be taken for plaintext by whoever
/// looks; it never opens.
#[test]
fn a_changed_byte_of_an_authenticated_value_is_refused() {
    for case in cases().iter().filter(|case| case.format.is_authenticated() && !case.is_refused()) {
        let reader = case.reader();
        for stored in case.values.iter().filter(|stored| case.is_quick(stored)) {
            for at in 0..stored.stored.len() {
                for bit in 0..8 {
                    let mut changed = stored.stored.clone();
                    changed[at] ^= 1 << bit;
                    let opened = reader.open(&stored.instead(&changed));
                    // Of an armour only the message counts (its checksum is for accidents), and hex has two spellings.
                    let outside = (case.name == "pgcrypto_armor" || changed.eq_ignore_ascii_case(&stored.stored))
                        && opened.as_ref().is_ok_and(|plaintext| plaintext[..] == stored.plaintext);
                    assert!(opened.is_err() || outside, "{}: bit {bit} of byte {at}", case.name);
                }
            }
        }
    }
}

#[test]
fn a_value_that_is_cut_short_or_longer_is_refused() {
    for case in cases().iter().filter(|case| case.format.is_authenticated() && !case.is_refused()) {
        let reader = case.reader();
        for stored in case.values.iter().filter(|stored| case.is_quick(stored)) {
            let longer = [&stored.stored[..], b"A"].concat();
            let armour = case.name == "pgcrypto_armor";
            assert!(armour || reader.open(&stored.instead(&longer)).is_err(), "{} longer", case.name);
            for len in 0..stored.stored.len() {
                let opened = reader.open(&stored.instead(&stored.stored[..len]));
                // The padding of base64 may be left out where the layout is the application's own.
                let outside = (armour || stored.stored[len..].iter().all(|cut| *cut == b'='))
                    && opened.as_ref().is_ok_and(|plaintext| plaintext[..] == stored.plaintext);
                assert!(opened.is_err() || outside, "{} cut to {len}", case.name);
            }
        }
    }
}

#[test]
fn what_a_format_leaves_to_its_own_product_is_recognised_and_refused_by_name() {
    let mut reasons = Vec::new();
    for case in cases().iter().filter(|case| case.is_refused()) {
        let reader = case.reader();
        for stored in &case.values {
            assert!(case.format.recognises(&stored.value()), "{}", case.name);
            match reader.open(&stored.value()) {
                Err(Error::Unsupported(what)) => reasons.push(what),
                other => panic!("{}: {:?}", case.name, other.err()),
            }
        }
    }
    reasons.dedup();
    assert_eq!(reasons, ["no modification detection (`disable-mdc`)", "a cipher other than AES"]);
}

/// Where a format has a beginning of its own, what people write is not taken for it.
#[test]
fn plain_values_are_not_taken_for_a_format() {
    let plain = [
        "",
        "a",
        "ann@example.com",
        "v1",
        "gAAA",
        "{\"p\": 1}",
        "{}",
        "eyJ",
        "{\"iv\":\"x\"}",
        "O'Neill",
        "+49 30 1234",
    ];
    for case in cases() {
        // Any bytes that are long enough.
        if case.name == "lockbox_bytes" || case.name == "aes_gcm_bytes" {
            continue;
        }
        for text in plain {
            assert!(!case.format.recognises(&text.as_bytes().into()), "{} takes `{text}`", case.name);
        }
    }
}

/// What stands beside a value says that it is one, and is as little to be changed as the value itself.
#[test]
fn what_stands_beside_a_value_belongs_to_it() {
    let mut looked_at = 0;
    for case in cases().iter().filter(|case| case.values.iter().any(|stored| !stored.beside.is_empty())) {
        let reader = case.reader();
        for (n, stored) in case.values.iter().enumerate() {
            assert!(!case.format.recognises(&Foreign::new(stored.form, &stored.stored, &[])), "{}", case.name);
            assert!(case.format.recognises(&stored.instead(b"damaged")), "{}", case.name);
            let other = &case.values[(n + 1) % case.values.len()];
            for (at, (companion, held)) in stored.beside.iter().enumerate() {
                let with = |held: Option<&'static [u8]>| {
                    let mut beside = stored.beside.clone();
                    match held {
                        Some(held) => beside[at].1 = held,
                        None => drop(beside.remove(at)),
                    }
                    reader.open(&Foreign::new(stored.form, &stored.stored, &beside)).map(|plaintext| plaintext.to_vec())
                };
                assert_eq!(with(Some(held)).unwrap(), stored.plaintext, "{}", case.name);
                assert!(with(None).is_err(), "{} without {companion:?}", case.name);
                assert!(with(Some(other.beside[at].1)).is_err(), "{} with another's {companion:?}", case.name);
                for byte in 0..held.len() {
                    let mut changed = held.to_vec();
                    changed[byte] ^= 1;
                    assert!(with(Some(changed.leak())).is_err(), "{}: byte {byte} of {companion:?}", case.name);
                    looked_at += 1;
                }
            }
        }
    }
    assert!(looked_at > 200, "{looked_at}");
}

#[test]
fn a_json_cell_is_looked_at_by_the_string_that_it_is() {
    let looked_at = |form, stored: &[u8]| Foreign::new(form, stored, &[]).to_vec();
    assert_eq!(looked_at(Form::Json, b" \"gAAAAA\\u0041\""), b"gAAAAAA");
    assert_eq!(looked_at(Form::Json, b"{\"p\":\"\"}"), b"{\"p\":\"\"}");
    assert_eq!(looked_at(Form::Json, b"\"unfinished"), b"\"unfinished");
    assert_eq!(looked_at(Form::Text, b"\"a\""), b"\"a\"");
    assert!(fits(Form::Json, b"{\"a\": 1}") && !fits(Form::Json, b"ann") && !fits(Form::Text, b"a\0b"));
    assert!(!fits(Form::Text, b"\xff") && fits(Form::Bytes, b"\xff\0"));
}

#[test]
fn what_is_no_key_of_a_format_is_refused_when_the_reader_is_made() {
    for case in cases() {
        for bad in ["", "short"] {
            let made = case.format.with_keys(&[secret(bad)]);
            // Any text is a passphrase.
            let spelled = ["fernet", "cloak", "laravel", "lockbox"].iter().any(|name| case.name.starts_with(name));
            match made {
                Err(Error::Key(_)) => {}
                Err(other) => panic!("{}: {other}", case.name),
                Ok(_) => assert!(bad == "short" && !spelled, "{} takes `{bad}`", case.name),
            }
        }
        assert!(matches!(case.format.with_keys(&[]), Err(Error::Key(_))), "{}", case.name);
    }
}

#[test]
fn an_scrypt_of_no_power_of_two_or_of_too_much_memory_is_none() {
    assert_eq!(Scrypt::new(16384, 8, 1), Some(Scrypt::USUAL));
    for (n, r, p) in
        [(0, 8, 1), (1, 8, 1), (16383, 8, 1), (16384, 0, 1), (16384, 8, 0), (1 << 24, 8, 1), (1 << 63, 8, 1)]
    {
        assert_eq!(Scrypt::new(n, r, p), None, "{n} {r} {p}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Nothing that is stored makes a reader panic, nor opens: not noise, and not noise behind a good beginning.
    #[test]
    fn noise_never_opens(noise in prop::collection::vec(any::<u8>(), 0..200), kept in 0_usize..40) {
        CASES.with(|cases| {
            for (case, reader) in cases {
                let first = &case.values[0].stored;
                let begun = [&first[..kept.min(first.len())], &noise].concat();
                for stored in [&noise, &begun] {
                    for form in [Form::Text, Form::Bytes, Form::Json] {
                        let value = Foreign::new(form, stored, &[]);
                        case.format.recognises(&value);
                        let opened = reader.open(&value);
                        prop_assert!(opened.is_err() || !case.format.is_authenticated() || stored == first);
                    }
                }
            }
            Ok(())
        })?;
    }
}

thread_local! {
    /// Deriving some of the keys takes its time.
    static CASES: Vec<(Case, Box<dyn Reader>)> = cases()
        .into_iter()
        .map(|case| {
            let reader = case.reader();
            (case, reader)
        })
        .collect();
}
