//! `[readers]`: what each format takes of the settings.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;

use enfold_core::readers::{
    AesGcm, AesPadding, AwsBlob, Cloak, Companion, Derivation, Digest, DjangoCryptography, Encoding, Fernet, Format,
    IV_LENS, KeyEncoding, Laravel, Layout, Lockbox, Part, Pgcrypto, Prefix, Rails, Scrypt, SqlalchemyAes,
    SqlalchemyGcm, Transit, Wrapping,
};

use super::key_table::{self, Around};
use super::model::{Environment, KeySource, KeyTablePolicy, ReaderPolicy, ReaderRoots};
use super::raw::{Derive, RawKeyTable, RawReader, ReaderEncoding, ReaderFormat, ReaderPadding, TextEncoding};
use super::resolve::{Resolver, keys};
use super::url::Scheme;
use super::words::did_you_mean;
use crate::kms::{KeyUri, RootKey};

/// Readers by name; none where something is wrong with one.
pub(super) type Readers = BTreeMap<String, Option<ReaderPolicy>>;

pub(super) fn resolve(
    at: &mut Resolver<'_>,
    raw: BTreeMap<String, RawReader>,
    environment: Environment,
    scheme: Option<Scheme>,
) -> Readers {
    let made = raw.into_iter().map(|(name, raw)| {
        let reader = Reading { at, name: &name, raw: &raw, environment, scheme }.policy();
        (name, reader)
    });
    made.collect()
}

/// One reader on its way into the policy.
pub(super) struct Reading<'a, 'b> {
    at: &'a mut Resolver<'b>,
    name: &'a str,
    raw: &'a RawReader,
    environment: Environment,
    /// Of the application's database, if it is known.
    pub(super) scheme: Option<Scheme>,
}

impl Reading<'_, '_> {
    fn policy(mut self) -> Option<ReaderPolicy> {
        let path = self.path("format");
        let format = self.at.required(self.raw.format, &path, "format = \"fernet\"");
        // Where the format is not known, keys are what most need.
        let wants_keys = format.is_none_or(|format| !self.wants_root(format) && !self.is_listed());
        let keys = if wants_keys { self.keys() } else { Some(Vec::new()) };
        let format = format?;
        let roots = if self.wants_root(format) { self.roots(format).map(Some) } else { Some(None) };
        let table = if self.is_listed() { self.table().map(Some) } else { Some(None) };
        self.refuse_what_it_has_no_use_for(format);
        let made = self.format(format)?;
        let several_in_one = format.may_share_a_variable();
        Some(ReaderPolicy { format: made, keys: keys?, several_in_one, roots: roots?, table: table? })
    }

    /// Whether a key service opens the values, or their data keys.
    fn wants_root(&self, format: ReaderFormat) -> bool {
        match format {
            ReaderFormat::VaultTransit | ReaderFormat::AwsKms => true,
            ReaderFormat::Aes256Gcm => self.has_data_key() || self.raw.key_table.data_key.is_some(),
            _ => false,
        }
    }

    /// Whether each value has its wrapped key with it.
    fn has_data_key(&self) -> bool {
        self.raw.fields.contains_key("data_key") || self.raw.apart.iter().any(|word| word == "data_key")
    }

    /// Whether a table says by which keys the values open.
    fn is_listed(&self) -> bool {
        let RawKeyTable { table, id, tenant, version, root, data_key, key } = &self.raw.key_table;
        [table, id, tenant, version, root, data_key, key].iter().any(|set| set.is_some())
    }

    fn table(&mut self) -> Option<KeyTablePolicy> {
        let apart = self.apart()?;
        let prefix_has_version = self.prefix()?.has_version();
        let around = Around { has_data_key: self.has_data_key(), prefix_has_version };
        let raw = self.raw;
        key_table::resolve(self, &raw.key_table, &apart, &around)
    }

    fn roots(&mut self, format: ReaderFormat) -> Option<ReaderRoots> {
        let line = match format {
            ReaderFormat::VaultTransit => "\"vault://HOST/transit/KEY\"",
            _ => "\"aws-kms://REGION/KEY\"",
        };
        let named = self.raw.key_table.root.is_some();
        let texts: Vec<(Vec<String>, String)> = if named {
            let given = (!self.raw.roots.is_empty()).then(|| self.raw.roots.clone());
            let path = self.path("roots");
            let given = self.at.required(given, &path, &format!("roots = [{line}]"))?;
            given
                .into_iter()
                .enumerate()
                .map(|(n, text)| ([path.clone(), vec![n.to_string()]].concat(), text))
                .collect()
        } else {
            let path = self.path("root");
            let given = self.at.required(self.raw.root.clone(), &path, &format!("root = {line}"))?;
            vec![(path, given)]
        };
        let uris: Vec<Option<KeyUri>> = texts.iter().map(|(path, text)| self.root(format, path, text)).collect();
        let uris = uris.into_iter().collect::<Option<Vec<_>>>()?;
        Some(ReaderRoots { uris, context: self.raw.encryption_context.clone() })
    }

    fn root(&mut self, format: ReaderFormat, path: &[String], text: &str) -> Option<KeyUri> {
        let uri = self.at.root_key(text, path, self.environment, false)?;
        match (format, uri.root()) {
            (ReaderFormat::VaultTransit | ReaderFormat::Aes256Gcm, RootKey::Vault(_)) => {
                if self.raw.encryption_context.keys().any(|name| name != "context") {
                    self.report("encryption_context", "a key in Vault is derived from one `context` at most");
                }
            }
            (ReaderFormat::AwsKms | ReaderFormat::Aes256Gcm, RootKey::Aws(_)) => {}
            _ => {
                self.at.report(path, "not a key of a service that this format is opened by");
                return None;
            }
        }
        Some(uri)
    }

    pub(super) fn required<T>(&mut self, value: Option<T>, key: &str, line: &str) -> Option<T> {
        let path = self.path(key);
        self.at.required(value, &path, line)
    }

    fn path(&self, key: &str) -> Vec<String> {
        [&keys(&["readers", self.name])[..], &keys(&key.split('.').collect::<Vec<_>>())].concat()
    }

    pub(super) fn report(&mut self, key: &str, message: impl AsRef<str>) {
        let path = self.path(key);
        self.at.report(&path, message);
    }

    fn keys(&mut self) -> Option<Vec<KeySource>> {
        let word = |name: &String| {
            name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
                && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        };
        for (number, name) in self.raw.key_variables.iter().enumerate() {
            if !word(name) {
                // It may be the key itself, so it is not repeated.
                let message =
                    "not the name of an environment variable, as `OLD_KEY`; the key itself does not belong here";
                let path = [self.path("key_variables"), vec![number.to_string()]].concat();
                self.at.report(&path, message);
                return None;
            }
        }
        let variables = self.raw.key_variables.iter().cloned().map(KeySource::Variable);
        let files = self.raw.key_files.iter().map(|file| KeySource::File(self.at.base.join(file)));
        let all: Vec<KeySource> = variables.chain(files).collect();
        let path = self.path("key_variables");
        if all.is_empty() && !self.at.is_faulty(&path) && !self.at.is_faulty(&self.path("key_files")) {
            self.at.required(None::<()>, &path, "key_variables = [\"OLD_KEY\"]");
        }
        (!all.is_empty()).then_some(all)
    }

    fn refuse_what_it_has_no_use_for(&mut self, format: ReaderFormat) {
        let raw = self.raw;
        let stretches = matches!(raw.derive, Some(Derive::Pbkdf2Sha1 | Derive::Pbkdf2Sha256 | Derive::Pbkdf2Sha512));
        let own = format == ReaderFormat::Aes256Gcm;
        let lockbox = format == ReaderFormat::Lockbox;
        let salted = match format {
            ReaderFormat::Aes256Gcm => !matches!(raw.derive, None | Some(Derive::Sha256)),
            other => matches!(other, ReaderFormat::Rails | ReaderFormat::DjangoCryptography),
        };
        let scrypt = own && raw.derive == Some(Derive::Scrypt);
        let root = self.wants_root(format);
        let (listed, table) = (own && self.is_listed(), &raw.key_table);
        let keyed = own && !root || table.key.is_some();
        let versioned = raw.apart.iter().any(|word| word == "key" || word == "version");
        if own && !listed && versioned {
            self.report("apart", "`key` and `version` lead to a row of `key_table`, and there is none");
        }
        for (key, is_set, has_use) in [
            ("key_variables", !raw.key_variables.is_empty(), !root && !listed),
            ("key_files", !raw.key_files.is_empty(), !root && !listed),
            ("root", raw.root.is_some(), root && table.root.is_none()),
            ("roots", !raw.roots.is_empty(), root && table.root.is_some()),
            ("key_table", self.is_listed(), own),
            ("encryption_context", !raw.encryption_context.is_empty(), root),
            ("key_encoding", raw.key_encoding.is_some(), keyed),
            ("derive", raw.derive.is_some(), keyed),
            ("salt", raw.salt.is_some(), salted),
            ("salt_encoding", raw.salt_encoding.is_some(), salted && raw.salt.is_some()),
            ("info", raw.info.is_some(), own && raw.derive == Some(Derive::HkdfSha256)),
            ("iterations", raw.iterations.is_some(), own && stretches),
            ("scrypt_n", raw.scrypt_n.is_some(), scrypt),
            ("scrypt_r", raw.scrypt_r.is_some(), scrypt),
            ("scrypt_p", raw.scrypt_p.is_some(), scrypt),
            (
                "encoding",
                raw.encoding.is_some(),
                own || lockbox || matches!(format, ReaderFormat::Pgcrypto | ReaderFormat::AwsKms),
            ),
            ("parts", !raw.parts.is_empty(), own && raw.fields.is_empty()),
            ("apart", !raw.apart.is_empty(), own),
            ("iv_bytes", raw.iv_bytes.is_some(), own),
            ("separator", raw.separator.is_some(), own && raw.fields.is_empty()),
            ("prefix", raw.prefix.is_some(), own),
            ("fields", !raw.fields.is_empty(), own),
            ("associated_data", raw.associated_data.is_some(), own || lockbox),
            ("padding", raw.padding.is_some(), format == ReaderFormat::SqlalchemyUtilsAes),
            ("table", raw.table.is_some(), lockbox),
            ("attribute", raw.attribute.is_some(), lockbox),
            ("pad_to", raw.pad_to.is_some(), lockbox),
        ] {
            if is_set && !has_use {
                self.report(key, "this format, as it is declared here, has no use for it");
            }
        }
    }

    fn format(&mut self, format: ReaderFormat) -> Option<Arc<dyn Format>> {
        let raw = self.raw;
        Some(match format {
            ReaderFormat::Aes256Gcm => Arc::new(self.aes_gcm()?),
            ReaderFormat::Fernet => Arc::new(Fernet::Plain),
            ReaderFormat::DjangoFernetFields => Arc::new(Fernet::DjangoFields),
            ReaderFormat::SqlalchemyUtilsFernet => Arc::new(Fernet::SqlalchemyUtils),
            ReaderFormat::DjangoCryptography => {
                let usual = DjangoCryptography::USUAL_SALT.as_bytes().to_vec();
                Arc::new(DjangoCryptography { salt: if raw.salt.is_some() { self.salt()? } else { usual } })
            }
            ReaderFormat::SqlalchemyUtilsAesGcm => Arc::new(SqlalchemyGcm),
            ReaderFormat::SqlalchemyUtilsAes => Arc::new(SqlalchemyAes(match raw.padding.unwrap_or_default() {
                ReaderPadding::Naive => AesPadding::Naive,
                ReaderPadding::Pkcs5 => AesPadding::Pkcs5,
                ReaderPadding::Oneandzeroes => AesPadding::OneAndZeroes,
                ReaderPadding::Zeroes => AesPadding::Zeroes,
            })),
            ReaderFormat::Cloak => Arc::new(Cloak),
            ReaderFormat::Laravel => Arc::new(Laravel { serialized: false }),
            ReaderFormat::LaravelSerialized => Arc::new(Laravel { serialized: true }),
            ReaderFormat::Rails => Arc::new(Rails { salt: self.salt()? }),
            ReaderFormat::VaultTransit => Arc::new(Transit),
            ReaderFormat::AwsKms => Arc::new(AwsBlob { encoding: self.encoding()? }),
            ReaderFormat::Lockbox => Arc::new(self.lockbox()?),
            ReaderFormat::Pgcrypto => Arc::new(Pgcrypto {
                wrapping: match raw.encoding.unwrap_or(ReaderEncoding::Raw) {
                    ReaderEncoding::Raw => Wrapping::Raw,
                    ReaderEncoding::Armor => Wrapping::Armor,
                    ReaderEncoding::Base64 => Wrapping::Base64,
                    ReaderEncoding::Hex => Wrapping::Hex,
                    _ => {
                        self.report("encoding", "expected one of `raw`, `armor`, `base64` and `hex`");
                        return None;
                    }
                },
            }),
        })
    }

    fn lockbox(&mut self) -> Option<Lockbox> {
        let raw = self.raw;
        if raw.table.is_some() != raw.attribute.is_some() {
            let missing = if raw.table.is_some() { "attribute" } else { "table" };
            self.report(missing, "missing: a key is made of the master key for a table and a column");
        }
        let encoded = match raw.encoding.unwrap_or(ReaderEncoding::Base64) {
            ReaderEncoding::Base64 => true,
            ReaderEncoding::Raw => false,
            _ => {
                self.report("encoding", "expected `base64` or `raw`");
                return None;
            }
        };
        Some(Lockbox {
            attribute: raw.table.clone().zip(raw.attribute.clone()),
            pad_to: raw.pad_to.and_then(|block| u16::try_from(block).ok()),
            associated_data: raw.associated_data.clone().unwrap_or_default().into_bytes(),
            encoded,
        })
    }

    fn aes_gcm(&mut self) -> Option<AesGcm> {
        let raw = self.raw;
        let (layout, derivation) = (self.layout(), self.derivation());
        let (encoding, apart, prefix) = (self.encoding()?, self.apart(), self.prefix());
        if encoding == Encoding::Raw && !matches!(layout, Some(Layout::Joined(_)) | None) {
            self.report("encoding", "parts that stand alone are texts: `hex`, `base64` or `base64url`");
        }
        if let Some(Layout::Separated(_, separator)) = &layout
            && encoding != Encoding::Raw
            && separator.bytes().all(|byte| encoding.may_hold(byte))
        {
            self.report(
                "separator",
                "what is encoded may hold it, so that nobody could tell the parts from each other",
            );
        }
        let iv_len = raw.iv_bytes.map_or(IV_LENS[0], |bytes| usize::try_from(bytes).unwrap_or(0));
        if !IV_LENS.contains(&iv_len) {
            self.report("iv_bytes", "expected 12 or 16");
            return None;
        }
        let format = AesGcm {
            iv_len,
            layout: layout?,
            apart: apart?,
            listed: self.is_listed(),
            encoding,
            prefix: prefix?,
            associated_data: raw.associated_data.clone().unwrap_or_default().into_bytes(),
            key_encoding: match raw.key_encoding.unwrap_or_default() {
                TextEncoding::Text => KeyEncoding::Text,
                TextEncoding::Hex => KeyEncoding::Hex,
                TextEncoding::Base64 => KeyEncoding::Base64,
            },
            derivation: derivation?,
        };
        if !format.is_sound() {
            let (key, expected) = match raw.fields.is_empty() {
                true => (
                    "parts",
                    "expected `iv` and `ciphertext` once each, and `tag` where it is a part of its own; what is `apart` left out",
                ),
                false => (
                    "fields",
                    "expected `ciphertext`, and `iv`, `tag` and `data_key` where they are members of their own",
                ),
            };
            self.report(key, expected);
            return None;
        }
        Some(format)
    }

    fn apart(&mut self) -> Option<Vec<Companion>> {
        let mut all = Some(Vec::new());
        for (number, word) in self.raw.apart.iter().enumerate() {
            match (companion(word), &mut all) {
                (Some(companion), Some(all)) => all.push(companion),
                (Some(_), None) => {}
                (None, _) => {
                    let path = [self.path("apart"), vec![number.to_string()]].concat();
                    self.at.report(&path, no_companion(word));
                    all = None;
                }
            }
        }
        all
    }

    fn prefix(&mut self) -> Option<Prefix> {
        let text = self.raw.prefix.clone().unwrap_or_default();
        let prefix = Prefix::parse(&text);
        if prefix.as_ref().is_some_and(Prefix::has_version) && !self.is_listed() {
            self.report("prefix", "a version leads to a row of `key_table`, and there is none");
        } else if prefix.is_none() {
            self.report("prefix", "expected `{version}` once at most, and behind it what no version has in it, as `:`");
        }
        prefix
    }

    fn encoding(&mut self) -> Option<Encoding> {
        Some(match self.raw.encoding.unwrap_or(ReaderEncoding::Base64) {
            ReaderEncoding::Raw => Encoding::Raw,
            ReaderEncoding::Hex => Encoding::Hex,
            ReaderEncoding::Base64 => Encoding::Base64,
            ReaderEncoding::Base64url => Encoding::Base64Url,
            ReaderEncoding::Base64Unpadded => Encoding::Base64Unpadded,
            ReaderEncoding::Base64urlUnpadded => Encoding::Base64UrlUnpadded,
            ReaderEncoding::Armor => {
                self.report("encoding", "expected `raw`, `hex`, or `base64` or `base64url`, each also `-unpadded`");
                return None;
            }
        })
    }

    fn layout(&mut self) -> Option<Layout> {
        let raw = self.raw;
        let (key, layout) = if raw.fields.is_empty() {
            let apart = |word: &&str| raw.apart.iter().any(|apart| apart == word);
            let usual =
                ["iv", "ciphertext", "tag"].into_iter().filter(|word| !apart(word)).map(str::to_owned).collect();
            let order: &Vec<String> = if raw.parts.is_empty() { &usual } else { &raw.parts };
            let order = order.iter().map(|word| part(word)).collect::<Option<Vec<_>>>();
            let layout = order.map(|order| match &raw.separator {
                Some(separator) => Layout::Separated(order, separator.clone()),
                None => Layout::Joined(order),
            });
            ("parts", layout)
        } else {
            let fields = raw.fields.iter().map(|(word, field)| Some((part(word)?, field.clone())));
            ("fields", fields.collect::<Option<Vec<_>>>().map(Layout::Json))
        };
        if raw.separator.as_deref() == Some("") {
            self.report("separator", "expected a character at least");
            return None;
        }
        if layout.is_none() {
            self.report(key, "the parts are `iv`, `ciphertext` and `tag`; in `fields` also `data_key`");
        }
        layout
    }

    fn derivation(&mut self) -> Option<Derivation> {
        let raw = self.raw;
        Some(match raw.derive {
            None => Derivation::None,
            Some(Derive::Sha256) => Derivation::Sha256,
            Some(Derive::HkdfSha256) => {
                let salt = if raw.salt.is_some() { self.salt()? } else { Vec::new() };
                Derivation::Hkdf { salt, info: raw.info.clone().unwrap_or_default().into_bytes() }
            }
            Some(Derive::Pbkdf2Sha1) => self.pbkdf2(Digest::Sha1)?,
            Some(Derive::Pbkdf2Sha256) => self.pbkdf2(Digest::Sha256)?,
            Some(Derive::Pbkdf2Sha512) => self.pbkdf2(Digest::Sha512)?,
            Some(Derive::Scrypt) => {
                let of = |given: Option<u32>, usual| given.unwrap_or(usual);
                let cost = Scrypt::new(of(raw.scrypt_n, 16_384).into(), of(raw.scrypt_r, 8), of(raw.scrypt_p, 1));
                if cost.is_none() {
                    self.report("scrypt_n", "expected a power of two; and N times r may take 1 GiB of memory at most");
                }
                Derivation::Scrypt { salt: self.salt()?, cost: cost? }
            }
        })
    }

    fn pbkdf2(&mut self, digest: Digest) -> Option<Derivation> {
        let path = self.path("iterations");
        let iterations = self.at.required(self.raw.iterations, &path, "iterations = 100_000").and_then(NonZeroU32::new);
        let salt = self.salt();
        Some(Derivation::Pbkdf2 { digest, salt: salt?, iterations: iterations? })
    }

    fn salt(&mut self) -> Option<Vec<u8>> {
        let path = self.path("salt");
        let text = self.at.required(self.raw.salt.clone(), &path, "salt = \"…\"")?;
        let decoded = match self.raw.salt_encoding.unwrap_or_default() {
            TextEncoding::Text => Some(text.into_bytes()),
            TextEncoding::Hex => Encoding::Hex.decode(text.as_bytes()).ok(),
            TextEncoding::Base64 => {
                let either = Encoding::Base64.decode(text.as_bytes());
                either.or_else(|_| Encoding::Base64Url.decode(text.as_bytes())).ok()
            }
        };
        if decoded.is_none() {
            self.report("salt", "not spelled as `salt_encoding` says");
        }
        decoded
    }
}

pub(super) fn companion(word: &str) -> Option<Companion> {
    Companion::ALL.into_iter().find(|companion| companion.word() == word)
}

pub(super) fn no_companion(word: &str) -> String {
    let words = Companion::ALL.map(Companion::word);
    format!("no part that stands apart{}", did_you_mean(word, words.into_iter()))
}

fn part(word: &str) -> Option<Part> {
    match word {
        "iv" => Some(Part::Iv),
        "ciphertext" => Some(Part::Ciphertext),
        "tag" => Some(Part::Tag),
        "data_key" => Some(Part::DataKey),
        _ => None,
    }
}

impl ReaderFormat {
    /// Whether no key of the format has a comma in it.
    fn may_share_a_variable(self) -> bool {
        matches!(self, Self::Fernet | Self::Cloak | Self::Laravel | Self::LaravelSerialized)
    }
}
