//! A key file whose root key is sealed under a passphrase.
//!
//! One line of words: `enfold-sealed-key-1`, how the passphrase is stretched (`argon2id m=65536 t=3 p=4`), a salt, the
//! root key as an envelope (`docs/format.md`), and a checksum. The stretched passphrase is the envelope's data key, so the
//! envelope's commitment fixes the passphrase: nobody can make one file that opens under two, and use whoever opens it to
//! try many at once. All words before the envelope are bound to it. The checksum is no protection, for anybody can make
//! one; it tells a file that was damaged from a passphrase that is wrong.

use aws_lc_rs::{digest, rand};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use enfold_core::binding::Binding;
use enfold_core::{Envelope, KeyId, Opener, Padding, PayloadType, Sealer, text};

use super::passphrase::{Kdf, Passphrase};
use crate::error::{Code, Error, Result};
use crate::kms::material::KeyMaterial;

/// With this a sealed key file begins.
pub(super) const PREFIX: &str = "enfold-sealed-key-1 ";

const SALT: usize = 16;
const CHECKSUM: usize = 16;
/// In the place of a ring's id in the envelope's binding. A ring's id has no control characters, so it is none.
const PLACE: &str = "enfold/v1\0local key file";

/// The line of a key file that opens under `passphrase` only.
pub(super) fn seal(root: &KeyMaterial, passphrase: &Passphrase, kdf: Kdf) -> Result<String> {
    let mut salt = [0; SALT];
    rand::fill(&mut salt).map_err(|_| Error::new(Code::Internal, "cannot draw a salt for a passphrase"))?;
    let failed = |e| crate::core_error(e, "cannot seal a root key under a passphrase");
    let key = kdf.stretch(passphrase, &salt)?;
    let head = format!("{PREFIX}{kdf} {}", URL_SAFE_NO_PAD.encode(salt));
    let sealer = Sealer::new(&key, KeyId::random().map_err(failed)?).map_err(failed)?;
    let envelope =
        sealer.seal(&Binding::new(PLACE, &head), PayloadType::Bytes, Padding::None, root.expose()).map_err(failed)?;
    let line = format!("{head} {}", text::encode(&envelope));
    Ok(format!("{line} {}\n", checksum(&line)))
}

/// The root key of such a line. `shown`: what errors call the file.
///
/// # Errors
/// `KeyFileInvalid` for a file that was damaged, or that asks for more than a machine has, before the passphrase is
/// touched; `PassphraseWrong` where the passphrase does not open it.
pub(super) fn open(line: &str, passphrase: &Passphrase, shown: &str) -> Result<KeyMaterial> {
    let damaged = || {
        Error::new(Code::KeyFileInvalid, format!("the sealed key file `{shown}` was changed or damaged"))
            .hint("restore it from a copy; a new key opens nothing that this one wrapped")
    };
    let line = line.strip_suffix('\n').unwrap_or(line);
    let (line, sum) = line.rsplit_once(' ').ok_or_else(damaged)?;
    if checksum(line) != sum {
        return Err(damaged());
    }
    let (head, envelope) = line.rsplit_once(' ').ok_or_else(damaged)?;
    let words: Vec<&str> = head.strip_prefix(PREFIX).ok_or_else(damaged)?.split(' ').collect();
    let [name, first, second, third, salt] = words[..] else { return Err(damaged()) };
    let kdf = Kdf::from_words([name, first, second, third]).ok_or_else(damaged)?;
    let salt = URL_SAFE_NO_PAD.decode(salt).ok().filter(|salt| salt.len() == SALT).ok_or_else(damaged)?;
    let envelope = text::decode(envelope).map_err(|_| damaged())?;
    let envelope = Envelope::parse(&envelope).map_err(|_| damaged())?;

    let doing = || format!("cannot open the sealed key file `{shown}`");
    let key = kdf.stretch(passphrase, &salt).map_err(|error| error.while_doing(doing()))?;
    let mut opened =
        Opener::new(&key, envelope.key_id()).open(&envelope, &Binding::new(PLACE, head)).map_err(|_| {
            Error::new(Code::PassphraseWrong, doing())
                .cause("the passphrase is not the one that it was sealed under")
                .hint("if it is, somebody changed the file on purpose: restore it from a copy")
        })?;
    KeyMaterial::from_slice(&mut opened.plaintext).ok_or_else(damaged)
}

fn checksum(line: &str) -> String {
    URL_SAFE_NO_PAD.encode(&digest::digest(&digest::SHA256, line.as_bytes()).as_ref()[..CHECKSUM])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The least that the functions take: what is tested here is the file.
    pub(crate) const QUICK: Kdf = Kdf::Argon2id { memory_kib: 8, passes: 1, lanes: 1 };

    fn passphrase(text: &str) -> Passphrase {
        Passphrase::new(text.to_owned().into()).unwrap()
    }

    fn refused(line: &str) -> Code {
        open(line, &passphrase("correct horse"), "a.key").err().expect("must be refused").code()
    }

    /// What somebody makes who changes a file on purpose.
    fn with_checksum(line: &str) -> String {
        format!("{line} {}\n", checksum(line))
    }

    #[test]
    fn what_is_sealed_opens_under_its_passphrase_alone_whichever_function_stretched_it() {
        let root = KeyMaterial::generate().unwrap();
        for kdf in [QUICK, Kdf::Scrypt { log_n: 4, r: 1, p: 1 }] {
            let line = seal(&root, &passphrase("correct horse"), kdf).unwrap();
            let back = open(&line, &passphrase("correct horse"), "a.key").unwrap();
            assert_eq!(back.expose(), root.expose());
            let error = open(&line, &passphrase("correct horsf"), "a.key").err().unwrap();
            assert_eq!(error.code(), Code::PassphraseWrong);
            assert!(!format!("{error:?}").contains("horse"));
        }
    }

    #[test]
    fn every_changed_character_is_noticed_before_the_passphrase_is_touched() {
        let line = seal(&KeyMaterial::generate().unwrap(), &passphrase("correct horse"), QUICK).unwrap();
        for at in 0..line.len() {
            for instead in ["A", "B", "", "  "] {
                let changed = format!("{}{instead}{}", &line[..at], &line[at + 1..]);
                // The line break at the end is no part of the key.
                if changed.trim_end_matches('\n') != line.trim_end_matches('\n') {
                    assert_eq!(refused(&changed), Code::KeyFileInvalid, "at {at}: {instead:?}");
                }
            }
        }
    }

    #[test]
    fn whoever_makes_the_checksum_anew_changes_nothing_that_opens() {
        let line = seal(&KeyMaterial::generate().unwrap(), &passphrase("correct horse"), QUICK).unwrap();
        let (body, _) = line.trim_end().rsplit_once(' ').unwrap();
        assert_eq!(with_checksum(body), line);
        for at in 0..body.len() {
            for instead in ["A", "B", "9"] {
                let changed = format!("{}{instead}{}", &body[..at], &body[at + 1..]);
                if changed != body {
                    assert!(
                        matches!(refused(&with_checksum(&changed)), Code::KeyFileInvalid | Code::PassphraseWrong),
                        "at {at}"
                    );
                }
            }
        }
        // Another spelling of the same parameters is another text, and the text is what is bound.
        assert_eq!(refused(&with_checksum(&body.replace("t=1", "t=01"))), Code::PassphraseWrong);
    }

    #[test]
    fn a_hostile_file_does_not_have_the_memory_that_it_asks_for() {
        let line = seal(&KeyMaterial::generate().unwrap(), &passphrase("correct horse"), QUICK).unwrap();
        let (body, _) = line.trim_end().rsplit_once(' ').unwrap();
        for greedy in ["m=4294967295 t=1 p=1", "m=8 t=4294967295 p=1", "m=99999999999 t=1 p=1"] {
            assert_eq!(refused(&with_checksum(&body.replace("m=8 t=1 p=1", greedy))), Code::KeyFileInvalid, "{greedy}");
        }
    }
}
