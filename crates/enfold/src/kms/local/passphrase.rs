//! A passphrase, and the key that is stretched from it.
//!
//! Argon2id (RFC 9106) is what new files use; scrypt (RFC 7914) is read as well. The parameters stand in the file, so they
//! are bounded here: whoever can write the file must not be able to exhaust the machine with it.

use std::fmt;
use std::path::PathBuf;

use argon2::{Algorithm, Argon2, Block, Version};
use enfold_core::DataKey;
use zeroize::Zeroizing;

use super::MAY_BE_KNOWN;
use crate::error::{Code, Error, Result};
use crate::private_file::Private;

/// The variable that is read where the policy names no file.
pub const PASSPHRASE_VARIABLE: &str = "ENFOLD_LOCAL_PASSPHRASE";

/// Bytes; what a person types or a program draws is far below.
const LONGEST: usize = 1024;
/// A new passphrase has so many characters at least: whoever has the file tries as many as they can pay for.
const SHORTEST_NEW: usize = 12;
/// Memory that one derivation may take.
const MOST_MEMORY: u64 = 1 << 30;
/// Memory times passes: what one derivation may cost in time, about 5 s on a common core.
const MOST_WORK: u64 = 8 << 30;
const MOST_LANES: u32 = 16;

/// A passphrase. It cannot be printed and is wiped on drop.
pub struct Passphrase(Zeroizing<String>);

impl Passphrase {
    /// Takes a passphrase as it is, spaces included. One that is empty, longer than 1,024 bytes or holds control
    /// characters is refused ([`Code::PassphraseMissing`]): it is a mistake of whoever handed it over.
    pub fn new(text: Zeroizing<String>) -> Result<Self> {
        if text.is_empty() || text.len() > LONGEST || text.chars().any(char::is_control) {
            return Err(Error::new(Code::PassphraseMissing, "what was given as a passphrase is not one")
                .cause(format!("one line of 1 to {LONGEST} bytes is expected")));
        }
        Ok(Self(text))
    }

    /// Refuses one that is too short to seal a key under ([`Code::Usage`]).
    pub fn good_for_new_keys(self) -> Result<Self> {
        if self.0.chars().count() < SHORTEST_NEW {
            return Err(Error::new(Code::Usage, "the new passphrase is too short")
                .cause(format!("{SHORTEST_NEW} characters at least are needed"))
                .hint("six words drawn with dice, or `openssl rand -base64 24`"));
        }
        Ok(self)
    }
}

/// Where a passphrase is. It is read when it is needed and not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PassphraseSource {
    /// A file that nobody but its owner has any right to; one line.
    File(PathBuf),
    /// An environment variable, by its name.
    Variable(String),
}

impl PassphraseSource {
    /// Reads it. The line break at the end of a file is not part of it.
    pub fn read(&self) -> Result<Passphrase> {
        let missing = |error: Error| match self {
            Self::File(path) => error.while_doing(format!("the file `{}` holds no passphrase", path.display())),
            Self::Variable(name) => error
                .while_doing(format!("the environment variable `{name}` holds no passphrase"))
                .hint("or name a file in the policy: `passphrase_file` under `key_services.local`"),
        };
        let may_be_known = |error: Error| match error.code() {
            Code::KeyFilePermissions => error.hint(MAY_BE_KNOWN),
            _ => error,
        };
        let text = match self {
            Self::File(path) => {
                let bytes = Private { path, what: "passphrase" }.read(LONGEST + 2).map_err(may_be_known)?;
                let line = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
                let line = line.strip_suffix(b"\r").unwrap_or(line);
                Zeroizing::new(std::str::from_utf8(line).unwrap_or_default().to_owned())
            }
            Self::Variable(name) => Zeroizing::new(std::env::var(name).unwrap_or_default()),
        };
        Passphrase::new(text).map_err(missing)
    }
}

/// How a key is stretched from a passphrase. Printing it gives the words of a key file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kdf {
    /// RFC 9106, version 1.3.
    Argon2id { memory_kib: u32, passes: u32, lanes: u32 },
    /// RFC 7914, with N as its logarithm.
    Scrypt { log_n: u8, r: u32, p: u32 },
}

impl Default for Kdf {
    /// RFC 9106 section 4, the second recommended option: 64 MiB, three passes, four lanes.
    fn default() -> Self {
        Self::Argon2id { memory_kib: 64 << 10, passes: 3, lanes: 4 }
    }
}

impl Kdf {
    /// The 32 bytes that `passphrase` and `salt` stretch to. Takes the memory and the time that it says, at once and on
    /// this thread.
    pub(super) fn stretch(self, passphrase: &Passphrase, salt: &[u8]) -> Result<DataKey> {
        self.check()?;
        let mut key = Zeroizing::new([0; 32]);
        self.fill(passphrase.0.as_bytes(), salt, &mut key[..])?;
        Ok(DataKey::from_bytes(&mut key))
    }

    /// Whether one derivation stays within what a machine has, and the parameters are ones that the function knows.
    pub(super) fn check(self) -> Result<()> {
        let (memory, work, lanes) = match self {
            Self::Argon2id { memory_kib, passes, lanes } => {
                let memory = u64::from(memory_kib) << 10;
                (memory, memory.saturating_mul(passes.into()), lanes)
            }
            Self::Scrypt { log_n, r, p } => {
                let blocks = 1_u64.checked_shl(log_n.into()).unwrap_or(u64::MAX);
                let memory = blocks.saturating_mul(128 * u64::from(r));
                (memory, memory.saturating_mul(p.into()), p)
            }
        };
        if memory > MOST_MEMORY || work > MOST_WORK || lanes > MOST_LANES {
            return Err(refused().cause("it asks for more memory or time than any key file of Enfold does"));
        }
        self.known().map(drop)
    }

    fn known(self) -> Result<Known> {
        match self {
            Self::Argon2id { memory_kib, passes, lanes } => {
                argon2::Params::new(memory_kib, passes, lanes, None).map(Known::Argon2id).map_err(|_| refused())
            }
            Self::Scrypt { log_n, r, p } => scrypt::Params::new(log_n, r, p).map(Known::Scrypt).map_err(|_| refused()),
        }
    }

    fn fill(self, password: &[u8], salt: &[u8], out: &mut [u8]) -> Result<()> {
        match self.known()? {
            Known::Argon2id(params) => {
                // The working memory tells the key as well as the passphrase does, so it is ours to wipe.
                let mut memory = Zeroizing::new(vec![Block::default(); params.block_count()]);
                let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
                argon2
                    .hash_password_into_with_memory(password, salt, out, &mut memory[..])
                    .map_err(|_| Error::new(Code::Internal, "cannot stretch a passphrase with Argon2id"))
            }
            Known::Scrypt(params) => scrypt::scrypt(password, salt, &params, out)
                .map_err(|_| Error::new(Code::Internal, "cannot stretch a passphrase with scrypt")),
        }
    }

    /// From the words of a key file, `argon2id`, `m=…`, `t=…`, `p=…`; `None` for any other.
    pub(super) fn from_words([name, first, second, third]: [&str; 4]) -> Option<Self> {
        let number = |word: &str, letter: &str| word.strip_prefix(letter)?.parse::<u32>().ok();
        match name {
            "argon2id" => Some(Self::Argon2id {
                memory_kib: number(first, "m=")?,
                passes: number(second, "t=")?,
                lanes: number(third, "p=")?,
            }),
            "scrypt" => Some(Self::Scrypt {
                log_n: u8::try_from(number(first, "n=")?).ok()?,
                r: number(second, "r=")?,
                p: number(third, "p=")?,
            }),
            _ => None,
        }
    }
}

impl fmt::Display for Kdf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Argon2id { memory_kib, passes, lanes } => write!(f, "argon2id m={memory_kib} t={passes} p={lanes}"),
            Self::Scrypt { log_n, r, p } => write!(f, "scrypt n={log_n} r={r} p={p}"),
        }
    }
}

/// Parameters that their library takes.
enum Known {
    Argon2id(argon2::Params),
    Scrypt(scrypt::Params),
}

fn refused() -> Error {
    Error::new(Code::KeyFileInvalid, "cannot stretch a passphrase as the key file says")
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    fn hex(kdf: Kdf, password: &str, salt: &str, length: usize) -> String {
        let mut out = vec![0; length];
        kdf.fill(password.as_bytes(), salt.as_bytes(), &mut out).unwrap();
        out.iter().fold(String::new(), |mut text, byte| {
            write!(text, "{byte:02x}").unwrap();
            text
        })
    }

    /// The test program of the reference implementation (P-H-C/phc-winner-argon2, `src/test.c`), version 0x13.
    #[test]
    fn argon2id_gives_the_published_values() {
        for (memory_kib, passes, lanes, password, salt, value) in [
            (65536, 2, 1, "password", "somesalt", "09316115d5cf24ed5a15a31a3ba326e5cf32edc24702987c02b6566f61913cf7"),
            (256, 2, 1, "password", "somesalt", "9dfeb910e80bad0311fee20f9c0e2b12c17987b4cac90c2ef54d5b3021c68bfe"),
            (256, 2, 2, "password", "somesalt", "6d093c501fd5999645e0ea3bf620d7b8be7fd2db59c20d9fff9539da2bf57037"),
            (65536, 2, 1, "password", "diffsalt", "bdf32b05ccc42eb15d58fd19b1f856b113da1e9a5874fdcc544308565aa8141c"),
        ] {
            let kdf = Kdf::Argon2id { memory_kib, passes, lanes };
            assert_eq!(hex(kdf, password, salt, 32), value, "{kdf}");
        }
    }

    /// RFC 7914 section 12.
    #[test]
    fn scrypt_gives_the_published_values() {
        for (log_n, r, p, password, salt, value) in [
            (
                4,
                1,
                1,
                "",
                "",
                "77d6576238657b203b19ca42c18a0497f16b4844e3074ae8dfdffa3fede21442fcd0069ded0948f8326a753a0fc81f17e8d3e0fb2e0d3628cf35e20c38d18906",
            ),
            (
                10,
                8,
                16,
                "password",
                "NaCl",
                "fdbabe1c9d3472007856e7190d01e9fe7c6ad7cbc8237830e77376634b3731622eaf30d92e22a3886ff109279d9830dac727afb94a83ee6d8360cbdfa2cc0640",
            ),
            (
                14,
                8,
                1,
                "pleaseletmein",
                "SodiumChloride",
                "7023bdcb3afd7348461c06cd81fd38ebfda8fbba904f8e3ea9b543f6545da1f2d5432955613f0fcf62d49705242a9af9e61e85dc0d651e40dfcf017b45575887",
            ),
        ] {
            let kdf = Kdf::Scrypt { log_n, r, p };
            assert_eq!(hex(kdf, password, salt, 64), value, "{kdf}");
        }
    }

    #[test]
    fn parameters_that_would_exhaust_the_machine_are_refused_before_they_do() {
        let argon2id = |memory_kib, passes, lanes| Kdf::Argon2id { memory_kib, passes, lanes };
        let scrypt = |log_n, r, p| Kdf::Scrypt { log_n, r, p };
        for kdf in [
            argon2id((1 << 20) + 1, 1, 1),
            argon2id(u32::MAX, u32::MAX, u32::MAX),
            argon2id(1 << 20, 9, 1),
            argon2id(64 << 10, 3, 17),
            argon2id(1, 1, 1),
            argon2id(64 << 10, 0, 4),
            argon2id(64 << 10, 3, 0),
            scrypt(21, 8, 1),
            scrypt(63, u32::MAX, 1),
            scrypt(64, 1, 1),
            scrypt(255, 1, 1),
            scrypt(17, 8, 17),
            scrypt(20, 8, 9),
            scrypt(17, 0, 1),
            scrypt(17, 8, 0),
        ] {
            let passphrase = Passphrase::new("correct horse".to_owned().into()).unwrap();
            assert_eq!(
                kdf.stretch(&passphrase, &[0; 16]).err().expect("refused").code(),
                Code::KeyFileInvalid,
                "{kdf}"
            );
        }
        for kdf in [Kdf::default(), argon2id(1 << 20, 8, 4), scrypt(20, 8, 8), scrypt(17, 8, 1)] {
            kdf.check().unwrap();
        }
    }

    #[test]
    fn what_is_no_passphrase_is_refused_and_not_repeated() {
        let long = "a".repeat(LONGEST + 1);
        for bad in ["", "two\nlines", "bell\u{7}", &long] {
            let error = Passphrase::new(bad.to_owned().into()).err().expect("refused");
            assert_eq!(error.code(), Code::PassphraseMissing);
            assert!(bad.is_empty() || !format!("{error:?}").contains(bad));
        }
        assert!(Passphrase::new(" spaces are part of it ".to_owned().into()).is_ok());
        let short = Passphrase::new("hunter2".to_owned().into()).unwrap();
        assert_eq!(short.good_for_new_keys().err().expect("refused").code(), Code::Usage);
    }
}
