//! A codec over one data key, bound to column and tenant: what the tests need to tell a sealed value from a plain one
//! and to open it. The policy's own codec has tests of its own.

use std::collections::HashMap;

use async_trait::async_trait;
use enfold::{Code, Result};
use enfold_core::stored::{Form, Stored, detect, encode};
use enfold_core::{Binding, DataKey, Envelope, KeyId, Opener, Padding, PayloadType, SealItem, Sealer};
use enfold_jobs::codec::{Codec, Verdict};
use enfold_jobs::model::{Goal, RowError, Storage, Target};
use enfold_jobs::store::{Cell, Change, Origin, Row};

pub(crate) struct OneKey {
    pub(crate) sealer: Sealer,
    pub(crate) opener: Opener,
    /// Of the data key before this one.
    former: Option<Opener>,
}

impl OneKey {
    /// The same key in every process that is given the same bytes.
    pub(crate) fn new(bytes: [u8; 32]) -> Self {
        let (key, id) = (DataKey::from_bytes(&mut bytes.clone()), KeyId::from_bytes(*b"one key of tests"));
        Self { sealer: Sealer::new(&key, id).expect("a sealer"), opener: Opener::new(&key, id), former: None }
    }

    /// After a rotation: what this one sealed opens still, and is to be re-encrypted.
    #[allow(dead_code, reason = "not every test that includes this file rotates")]
    pub(crate) fn rotated(self) -> Self {
        let (key, id) = (DataKey::from_bytes(&mut [0x5a; 32]), KeyId::from_bytes(*b"the key of later"));
        let sealer = Sealer::new(&key, id).expect("a sealer");
        Self { sealer, opener: Opener::new(&key, id), former: Some(self.opener) }
    }

    fn opens(&self, envelope: &Envelope<'_>) -> &Opener {
        self.former.as_ref().filter(|former| former.key_id() == envelope.key_id()).unwrap_or(&self.opener)
    }
}

fn form(storage: Storage) -> Form {
    match storage {
        Storage::Text => Form::Text,
        Storage::Bytes => Form::Bytes,
        Storage::Json => Form::Json,
    }
}

#[async_trait]
impl Codec for OneKey {
    async fn judge(&self, goal: Goal, target: &Target, rows: &[Row]) -> Result<Vec<Verdict>> {
        let bindings: HashMap<&str, Binding> =
            target.columns.iter().map(|c| (c.id.as_str(), Binding::new("ring", &c.id))).collect();
        let mut cells: Vec<Vec<Cell>> = rows.iter().map(|row| vec![Cell::Keep; row.cells.len()]).collect();
        let mut failed: HashMap<usize, RowError> = HashMap::new();
        for (at, column) in target.columns.iter().enumerate() {
            let binding = &bindings[column.id.as_str()];
            let mut plain: Vec<(usize, std::borrow::Cow<'_, [u8]>)> = Vec::new();
            for (n, row) in rows.iter().enumerate() {
                let Some(stored) = &row.cells[at] else { continue };
                if row.origin(at) == Origin::Source {
                    plain.extend((goal == Goal::Protect).then_some((n, stored.as_slice().into())));
                    continue;
                }
                match detect(form(column.storage), stored) {
                    Stored::Envelope(bytes) => {
                        let parsed = Envelope::parse(&bytes);
                        let former = self.former.as_ref().map(Opener::key_id);
                        let is_former = parsed.as_ref().is_ok_and(|envelope| Some(envelope.key_id()) == former);
                        match parsed.and_then(|envelope| self.opens(&envelope).open(&envelope, binding)) {
                            Ok(opened) if goal == Goal::Reencrypt && is_former => {
                                plain.push((n, opened.plaintext.to_vec().into()));
                            }
                            Ok(opened) if goal == Goal::Unprotect => {
                                cells[n][at] = Cell::Set(Some(opened.plaintext.to_vec()));
                            }
                            Ok(_) => {}
                            Err(_) => {
                                let error = RowError {
                                    row: row.label.clone(),
                                    column: column.name.clone(),
                                    code: Code::OpenFailed.word().to_owned(),
                                    reason: "does not open".to_owned(),
                                };
                                failed.insert(n, error);
                            }
                        }
                    }
                    _ if goal == Goal::Protect => plain.push((n, stored.as_slice().into())),
                    _ => {}
                }
            }
            let items: Vec<SealItem<'_>> = plain
                .iter()
                .map(|(_, plaintext)| SealItem {
                    binding,
                    payload: PayloadType::Bytes,
                    padding: Padding::None,
                    plaintext,
                })
                .collect();
            for ((n, plain), sealed) in plain.iter().zip(self.sealer.seal_many(&items)) {
                let sealed = sealed.expect("seals");
                let envelope = Envelope::parse(&sealed).expect("well formed");
                let opened = self.opener.open(&envelope, binding).expect("opens");
                assert!(opened.plaintext[..] == **plain, "what was sealed opens as what it was");
                cells[*n][at] = Cell::Set(Some(encode(form(column.storage), sealed)));
            }
        }
        let verdicts = rows.iter().zip(cells).enumerate().map(|(n, (row, cells))| match failed.remove(&n) {
            Some(error) => Verdict::Failed(vec![error]),
            None if cells.iter().all(|cell| matches!(cell, Cell::Keep)) => Verdict::Satisfied,
            None => Verdict::Convert(Change {
                version: row.version.clone(),
                label: row.label.clone(),
                cells,
                indexed: row.indexed.iter().map(|_| Cell::Keep).collect(),
                beside: Vec::new(),
                versions: Vec::new(),
                errors: Vec::new(),
            }),
        });
        Ok(verdicts.collect())
    }

    async fn former_keys(&self, _: &Target) -> Result<Vec<KeyId>> {
        Ok(self.former.iter().map(Opener::key_id).collect())
    }
}
