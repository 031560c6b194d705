//! `[readers]` as it stands in the file.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A reader of values that another product encrypted, for the columns that name it in `reads`. Secrets never stand here: a
/// key is in a variable or in a file, and is read when the first such value is.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::policy) struct RawReader {
    /// What encrypted the values. `docs/reference/formats.md` says of each how its values are recognised.
    #[schemars(extend("x-required" = true))]
    pub format: Option<ReaderFormat>,
    /// Environment variables with a key each, in the order in which they are tried. Of `fernet`, `cloak` and `laravel` a
    /// variable may hold several, with commas between them.
    pub key_variables: Vec<String>,
    /// Files with a key each, tried after those in variables. Nobody but their owner may have a right to them. A line break at the end is no
    /// part of the key.
    #[schemars(extend("x-items" = "path"))]
    pub key_files: Vec<String>,
    /// The URI of the root key that opens the values of `vault-transit` and `aws-kms`, or the data keys of those of
    /// `aes-256-gcm`, written as in `roots` of a ring. How its service is reached stands under `[key_services]`.
    #[schemars(extend("format" = "root-key-uri"))]
    pub root: Option<String>,
    /// The URIs of the root keys that the rows of `key_table` name. No other is ever called.
    #[schemars(extend("x-items" = "root-key-uri"))]
    pub roots: Vec<String>,
    /// A table that says by which keys the values of an `aes-256-gcm` open.
    pub key_table: RawKeyTable,
    /// The encryption context that the values or data keys were given in AWS KMS; the one `context` of a derived key in Vault.
    pub encryption_context: BTreeMap<String, String>,
    /// How the key of an `aes-256-gcm` is spelled.
    pub key_encoding: Option<TextEncoding>,
    /// How the key of an `aes-256-gcm` is made of what the variable or file holds. None: it is the key, 32 bytes.
    pub derive: Option<Derive>,
    /// The salt of the derivation; Rails' `key_derivation_salt`, django-cryptography's `CRYPTOGRAPHY_SALT`.
    pub salt: Option<String>,
    /// How `salt` is spelled.
    pub salt_encoding: Option<TextEncoding>,
    /// The info of an HKDF.
    pub info: Option<String>,
    /// The iterations of a PBKDF2.
    #[schemars(range(min = 1, max = 10_000_000))]
    pub iterations: Option<u32>,
    /// The N of an scrypt, a power of two. None: 16384.
    #[schemars(range(min = 2, max = 1_048_576))]
    pub scrypt_n: Option<u32>,
    /// The r of an scrypt. None: 8.
    #[schemars(range(min = 1, max = 64))]
    pub scrypt_r: Option<u32>,
    /// The p of an scrypt. None: 1.
    #[schemars(range(min = 1, max = 64))]
    pub scrypt_p: Option<u32>,
    /// How a value of `aes-256-gcm`, `lockbox`, `aws-kms` or `pgcrypto` is written. None: `base64`; for `pgcrypto` `raw`.
    pub encoding: Option<ReaderEncoding>,
    /// The order of the parts of an `aes-256-gcm`: `iv`, `ciphertext`, `tag` (16 bytes). Without `tag` it
    /// stands at the end of the ciphertext. None: `["iv", "ciphertext", "tag"]`, without what is `apart`.
    pub parts: Vec<String>,
    /// What of an `aes-256-gcm` stands in columns of its own, named by `companions` of the column: `iv`, `tag`, `data_key` (the
    /// value's own key, which `root` has wrapped), `data_key_iv` (which must be NULL), `key` (which row of `key_table` is
    /// meant), `version` (of the tenant's data key). Where one of them holds something, the value is taken for one of this
    /// format.
    pub apart: Vec<String>,
    /// Bytes of the IV of an `aes-256-gcm`: 12, or 16 as many programs on Node have it. None: 12. A FIPS build reads 12 alone.
    pub iv_bytes: Option<u32>,
    /// What stands between the parts, where each is encoded by itself, as `:`.
    pub separator: Option<String>,
    /// What every value begins with, before what is encoded: `enc:v1:`. `v{version}:` has the version of the tenant's data key
    /// in it.
    pub prefix: Option<String>,
    /// Where values are JSON objects, the member of each part: `fields = { iv = "iv", ciphertext = "data", tag = "tag" }`.
    /// Each is encoded by itself, or written as Node writes a Buffer. `data_key` is the value's own key, which `root` has
    /// wrapped. Without `iv` the IV stands at the front of the ciphertext. Other members are not looked at.
    pub fields: BTreeMap<String, String>,
    /// What is authenticated with every value of an `aes-256-gcm` or of Lockbox.
    pub associated_data: Option<String>,
    /// The padding of SQLAlchemy-Utils' `AesEngine`. None: `naive`, which is its default.
    pub padding: Option<ReaderPadding>,
    /// Lockbox: the table of the column, where the key is the master key.
    pub table: Option<String>,
    /// Lockbox: the column of the ciphertext, as `email_ciphertext`, where the key is the master key.
    pub attribute: Option<String>,
    /// Lockbox: to a multiple of how many bytes values were padded (`padding: true` is 16).
    #[schemars(range(min = 1, max = 65_535))]
    pub pad_to: Option<u32>,
}

/// A table of the application's database that says by which keys values open. A row is found by `id` or by `tenant`.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::policy) struct RawKeyTable {
    /// `schema.table`; on SQLite its name.
    pub table: Option<String>,
    /// The column to which `key` beside a value refers.
    pub id: Option<String>,
    /// The column with the tenant, as the tenant column of the values' table spells it.
    pub tenant: Option<String>,
    /// The column with the version of a tenant's data key. Of a value that names no version every one is tried, the newest
    /// first.
    pub version: Option<String>,
    /// The column with the ARN, or the URI, of the root key: one of `roots`.
    pub root: Option<String>,
    /// The column with the data key, wrapped by the root key: bytes, base64, or as Vault spells it. One that begins with `dev:` is
    /// not wrapped, and refused in production.
    pub data_key: Option<String>,
    /// The column with the key itself, for values that have no data key; `key_encoding` and `derive` say how it is spelled.
    pub key: Option<String>,
}

/// The formats that can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(in crate::policy) enum ReaderFormat {
    /// An application's own layout of AES-256-GCM.
    #[serde(rename = "aes-256-gcm")]
    Aes256Gcm,
    /// Fernet and MultiFernet of Python's `cryptography`.
    Fernet,
    /// The fields of django-fernet-fields; the keys are `FERNET_KEYS`, or `SECRET_KEY`. Without `FERNET_USE_HKDF` it is
    /// `fernet`.
    DjangoFernetFields,
    /// The fields of django-cryptography; the keys are `SECRET_KEY`, and `CRYPTOGRAPHY_KEY` after it where that is set.
    DjangoCryptography,
    /// SQLAlchemy-Utils' `FernetEngine`.
    SqlalchemyUtilsFernet,
    /// SQLAlchemy-Utils' `AesGcmEngine`.
    SqlalchemyUtilsAesGcm,
    /// SQLAlchemy-Utils' `AesEngine`. Not authenticated.
    SqlalchemyUtilsAes,
    /// prisma-field-encryption and Cloak of 47ng.
    Cloak,
    /// Laravel's `Crypt::encryptString` and its cast `encrypted`.
    Laravel,
    /// Laravel's `Crypt::encrypt`, of texts.
    LaravelSerialized,
    /// Rails' Active Record Encryption; the keys are `primary_key` and `deterministic_key`.
    Rails,
    /// Lockbox of Ruby.
    Lockbox,
    /// Postgres' `pgp_sym_encrypt`.
    Pgcrypto,
    /// The transit engine of Vault and OpenBao: `vault:vN:…`.
    VaultTransit,
    /// `Encrypt` of AWS KMS.
    AwsKms,
}

/// How a key or a salt is spelled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(in crate::policy) enum TextEncoding {
    /// As it is.
    #[default]
    Text,
    Hex,
    /// In either alphabet.
    Base64,
}

/// How a key is made of a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(in crate::policy) enum Derive {
    Sha256,
    HkdfSha256,
    Pbkdf2Sha1,
    Pbkdf2Sha256,
    Pbkdf2Sha512,
    Scrypt,
}

/// How a value is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(in crate::policy) enum ReaderEncoding {
    /// Bytes as they are, in a column of bytes.
    Raw,
    Hex,
    Base64,
    Base64url,
    /// Read as `base64` is, which may lack its padding; written without.
    Base64Unpadded,
    /// As `base64-unpadded`, of `base64url`.
    Base64urlUnpadded,
    /// The ASCII armour of OpenPGP.
    Armor,
}

/// The paddings of SQLAlchemy-Utils, by its names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(in crate::policy) enum ReaderPadding {
    #[default]
    Naive,
    Pkcs5,
    Oneandzeroes,
    Zeroes,
}
