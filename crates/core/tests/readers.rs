//! Readers of other formats, on values that other products' own code made (`vectors/foreign`, each file says by what).

use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use enfold_core::Form;
use enfold_core::readers::{
    AesGcm, AesPadding, Cloak, Companion, Derivation, Digest, DjangoCryptography, Encoding, Error, Fernet, Foreign,
    Format, KeyEncoding, Laravel, Layout, Lockbox, Part, Pgcrypto, Prefix, Rails, Reader, Scrypt, Secret,
    SqlalchemyAes, SqlalchemyGcm, Wrapping, fits,
};
use proptest::prelude::*;
use serde_json::Value as Json;

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

/// A file of vectors.
struct Case {
    name: String,
    format: Box<dyn Format>,
    keys: Vec<Secret>,
    wrong_keys: Vec<Secret>,
    values: Vec<Stored>,
}

struct Stored {
    form: Form,
    stored: Vec<u8>,
    beside: Vec<(Companion, &'static [u8])>,
    plaintext: Vec<u8>,
}

impl Case {
    fn reader(&self) -> Box<dyn Reader> {
        self.format.with_keys(&self.keys).unwrap_or_else(|error| panic!("{}: {error}", self.name))
    }

    /// A passphrase is stretched for every value of pgcrypto's.
    fn is_quick(&self, stored: &Stored) -> bool {
        stored.stored.len() < 400 && (stored.plaintext.len() < 16 || !self.name.starts_with("pgcrypto"))
    }

    fn is_refused(&self) -> bool {
        self.name.ends_with("_refused")
    }
}

impl Stored {
    fn value(&self) -> Foreign<'_> {
        self.instead(&self.stored)
    }

    /// Another cell with the same beside it.
    fn instead<'a>(&'a self, stored: &'a [u8]) -> Foreign<'a> {
        Foreign::new(self.form, stored, &self.beside)
    }
}

fn cases() -> Vec<Case> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../vectors/foreign");
    let paths = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut cases: Vec<Case> =
        paths.filter(|path| path.extension().is_some_and(|e| e == "json")).map(|path| case(&path)).collect();
    cases.sort_by(|a, b| a.name.cmp(&b.name));
    assert!(cases.len() >= 43, "{} files", cases.len());
    // The module takes no such IV.
    #[cfg(feature = "fips")]
    for case in cases.extract_if(.., |case| case.name.starts_with("aes_gcm_node_long_iv")) {
        assert!(matches!(case.format.with_keys(&case.keys), Err(Error::Unsupported(_))), "{}", case.name);
    }
    cases
}

fn case(path: &Path) -> Case {
    let json: Json = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let list = |name: &str| json[name].as_array().unwrap().iter().map(|key| secret(key.as_str().unwrap())).collect();
    let values = json["values"].as_array().unwrap().iter().map(|entry| {
        let form = match entry["form"].as_str().unwrap() {
            "text" => Form::Text,
            "bytes" => Form::Bytes,
            other => panic!("{other}"),
        };
        // The few bytes of a test are kept to its end.
        let held = |name: &String| &*entry["beside"][name].as_str().unwrap().as_bytes().to_vec().leak();
        let beside = entry["beside"].as_object().into_iter().flatten();
        let beside = beside.map(|(name, _)| (companion(name), held(name))).collect();
        Stored { form, stored: bytes(entry, "stored"), beside, plaintext: bytes(entry, "plaintext") }
    });
    let values: Vec<Stored> = values.collect();
    let format = format(&json["reader"]);
    let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
    Case { name, format, keys: list("keys"), wrong_keys: list("wrong_keys"), values }
}

fn companion(word: &str) -> Companion {
    Companion::ALL.into_iter().find(|companion| companion.word() == word).unwrap()
}

fn secret(text: &str) -> Secret {
    Secret::new(text.as_bytes().to_vec())
}

/// `NAME`, or `NAME_hex`.
fn bytes(entry: &Json, name: &str) -> Vec<u8> {
    if let Some(text) = entry[name].as_str() {
        return text.as_bytes().to_vec();
    }
    let hex = entry[format!("{name}_hex")].as_str().unwrap();
    (0..hex.len() / 2).map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap()).collect()
}

/// The format that a reader's settings mean, as the policy reads them.
fn format(settings: &Json) -> Box<dyn Format> {
    let text = |name: &str| settings[name].as_str().unwrap_or_default().to_owned();
    let salt = text("salt").into_bytes();
    match text("format").as_str() {
        "fernet" => Box::new(Fernet::Plain),
        "django-fernet-fields" => Box::new(Fernet::DjangoFields),
        "sqlalchemy-utils-fernet" => Box::new(Fernet::SqlalchemyUtils),
        "django-cryptography" => {
            let usual = DjangoCryptography::USUAL_SALT.as_bytes().to_vec();
            Box::new(DjangoCryptography { salt: if salt.is_empty() { usual } else { salt } })
        }
        "sqlalchemy-utils-aes-gcm" => Box::new(SqlalchemyGcm),
        "sqlalchemy-utils-aes" => Box::new(SqlalchemyAes(match text("padding").as_str() {
            "naive" => AesPadding::Naive,
            "pkcs5" => AesPadding::Pkcs5,
            "oneandzeroes" => AesPadding::OneAndZeroes,
            "zeroes" => AesPadding::Zeroes,
            other => panic!("{other}"),
        })),
        "cloak" => Box::new(Cloak),
        "laravel" => Box::new(Laravel { serialized: false }),
        "laravel-serialized" => Box::new(Laravel { serialized: true }),
        "rails" => Box::new(Rails { salt }),
        "lockbox" => Box::new(Lockbox {
            attribute: settings["table"].as_str().map(|table| (table.to_owned(), text("attribute"))),
            pad_to: settings["pad_to"].as_u64().map(|block| block.try_into().unwrap()),
            associated_data: text("associated_data").into_bytes(),
            encoded: text("encoding") != "raw",
        }),
        "pgcrypto" => Box::new(Pgcrypto {
            wrapping: match text("encoding").as_str() {
                "" => Wrapping::Raw,
                "armor" => Wrapping::Armor,
                "base64" => Wrapping::Base64,
                "hex" => Wrapping::Hex,
                other => panic!("{other}"),
            },
        }),
        "aes-256-gcm" => Box::new(aes_gcm(settings)),
        other => panic!("{other}"),
    }
}

fn aes_gcm(settings: &Json) -> AesGcm {
    let text = |name: &str| settings[name].as_str().unwrap_or_default().to_owned();
    let part = |name: &str| match name {
        "iv" => Part::Iv,
        "ciphertext" => Part::Ciphertext,
        "tag" => Part::Tag,
        other => panic!("{other}"),
    };
    let order = match settings["parts"].as_array() {
        Some(parts) => parts.iter().map(|name| part(name.as_str().unwrap())).collect(),
        None => vec![Part::Iv, Part::Ciphertext, Part::Tag],
    };
    let layout = match (settings["fields"].as_object(), settings["separator"].as_str()) {
        (Some(fields), _) => {
            Layout::Json(fields.iter().map(|(name, field)| (part(name), field.as_str().unwrap().to_owned())).collect())
        }
        (None, Some(separator)) => Layout::Separated(order, separator.to_owned()),
        (None, None) => Layout::Joined(order),
    };
    let salt = text("salt").into_bytes();
    let pbkdf2 = |digest| {
        let iterations = NonZeroU32::new(settings["iterations"].as_u64().unwrap().try_into().unwrap()).unwrap();
        Derivation::Pbkdf2 { digest, salt: salt.clone(), iterations }
    };
    let format = AesGcm {
        layout,
        apart: settings["apart"].as_array().into_iter().flatten().map(|is| companion(is.as_str().unwrap())).collect(),
        listed: false,
        iv_len: settings["iv_bytes"].as_u64().map_or(12, |bytes| bytes.try_into().unwrap()),
        encoding: match text("encoding").as_str() {
            "raw" => Encoding::Raw,
            "hex" => Encoding::Hex,
            "base64" => Encoding::Base64,
            "base64url" => Encoding::Base64Url,
            other => panic!("{other}"),
        },
        prefix: Prefix::parse(&text("prefix")).unwrap(),
        associated_data: text("associated_data").into_bytes(),
        key_encoding: match text("key_encoding").as_str() {
            "text" => KeyEncoding::Text,
            "hex" => KeyEncoding::Hex,
            "base64" => KeyEncoding::Base64,
            other => panic!("{other}"),
        },
        derivation: match text("derive").as_str() {
            "" => Derivation::None,
            "sha256" => Derivation::Sha256,
            "hkdf-sha256" => Derivation::Hkdf { salt, info: text("info").into_bytes() },
            "pbkdf2-sha1" => pbkdf2(Digest::Sha1),
            "pbkdf2-sha256" => pbkdf2(Digest::Sha256),
            "pbkdf2-sha512" => pbkdf2(Digest::Sha512),
            "scrypt" => Derivation::Scrypt { salt, cost: Scrypt::USUAL },
            other => panic!("{other}"),
        },
    };
    assert!(format.is_sound());
    format
}
