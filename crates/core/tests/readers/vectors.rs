//! The files of `vectors/foreign`: each says by what its values were made.

use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use enfold_core::Form;
#[cfg(feature = "fips")]
use enfold_core::readers::Error;
use enfold_core::readers::{
    AesGcm, AesPadding, Cloak, Companion, Derivation, Digest, DjangoCryptography, Encoding, Fernet, Foreign, Format,
    KeyEncoding, Laravel, Layout, Lockbox, Part, Pgcrypto, Prefix, Rails, Reader, Scrypt, Secret, SqlalchemyAes,
    SqlalchemyGcm, Wrapping,
};
use serde_json::Value as Json;

/// A file of vectors.
pub(crate) struct Case {
    pub(crate) name: String,
    /// As the policy spells it.
    pub(crate) settings: Json,
    pub(crate) format: Box<dyn Format>,
    pub(crate) keys: Vec<Secret>,
    pub(crate) wrong_keys: Vec<Secret>,
    pub(crate) values: Vec<Stored>,
}

pub(crate) struct Stored {
    pub(crate) form: Form,
    pub(crate) stored: Vec<u8>,
    pub(crate) beside: Vec<(Companion, &'static [u8])>,
    pub(crate) plaintext: Vec<u8>,
}

impl Case {
    pub(crate) fn reader(&self) -> Box<dyn Reader> {
        self.format.with_keys(&self.keys).unwrap_or_else(|error| panic!("{}: {error}", self.name))
    }

    /// A passphrase is stretched for every value of pgcrypto's.
    pub(crate) fn is_quick(&self, stored: &Stored) -> bool {
        stored.stored.len() < 400 && (stored.plaintext.len() < 16 || !self.name.starts_with("pgcrypto"))
    }

    pub(crate) fn is_refused(&self) -> bool {
        self.name.ends_with("_refused")
    }
}

impl Stored {
    pub(crate) fn value(&self) -> Foreign<'_> {
        self.instead(&self.stored)
    }

    /// Another cell with the same beside it.
    pub(crate) fn instead<'a>(&'a self, stored: &'a [u8]) -> Foreign<'a> {
        Foreign::new(self.form, stored, &self.beside)
    }
}

pub(crate) fn cases() -> Vec<Case> {
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
    let settings = json["reader"].clone();
    let format = format(&settings);
    let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
    Case { name, settings, format, keys: list("keys"), wrong_keys: list("wrong_keys"), values }
}

fn companion(word: &str) -> Companion {
    Companion::ALL.into_iter().find(|companion| companion.word() == word).unwrap()
}

pub(crate) fn secret(text: &str) -> Secret {
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
pub(crate) fn format(settings: &Json) -> Box<dyn Format> {
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
            "base64-unpadded" => Encoding::Base64Unpadded,
            "base64url-unpadded" => Encoding::Base64UrlUnpadded,
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
