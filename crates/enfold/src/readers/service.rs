//! What a key service opens for readers: values that it encrypted itself, and data keys that it wrapped for others.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use enfold_core::readers::{Secret, Wrapped};

use crate::Result;
use crate::kms::{DecryptRequest, KeyManagementService, Operation, failure};

/// Data keys of others that are kept, and for how long: as the cache of a ring, unless that is set otherwise.
const MOST: usize = 10_000;
const KEPT_FOR: Duration = Duration::from_secs(300);

/// What was opened, by what the key service was given.
#[derive(Default)]
pub(crate) struct Fetched(HashMap<Vec<u8>, Result<Secret>>);

/// A root key that others encrypted under.
pub(super) struct KeyService {
    kms: Arc<dyn KeyManagementService>,
    context: BTreeMap<String, String>,
    /// Values are opened once and not kept; data keys may have many values.
    kept: Mutex<HashMap<Vec<u8>, (Instant, Secret)>>,
}

impl Fetched {
    pub(super) fn get(&self, wrapped: &Wrapped) -> Option<&Result<Secret>> {
        self.0.get(bytes(wrapped))
    }

    pub(crate) fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }
}

impl KeyService {
    pub(super) fn new(kms: Arc<dyn KeyManagementService>, context: BTreeMap<String, String>) -> Self {
        Self { kms, context, kept: Mutex::default() }
    }

    /// Each once, whatever number of values need it.
    pub(super) async fn fetch(&self, wrapped: impl Iterator<Item = Wrapped>) -> Fetched {
        let mut fetched = Fetched::default();
        let mut missing: BTreeMap<Vec<u8>, bool> = BTreeMap::new();
        for wrapped in wrapped {
            let is_key = matches!(wrapped, Wrapped::DataKey(_));
            match is_key.then(|| self.known(bytes(&wrapped))).flatten() {
                Some(key) => drop(fetched.0.insert(bytes(&wrapped).to_vec(), Ok(key))),
                None => drop(missing.insert(bytes(&wrapped).to_vec(), is_key)),
            }
        }
        if missing.is_empty() {
            return fetched;
        }
        let request = |ciphertext| DecryptRequest { ciphertext, context: &self.context };
        let requests: Vec<DecryptRequest<'_>> = missing.keys().map(|wrapped| request(wrapped)).collect();
        let opened = match self.kms.abilities().decryptor {
            Some(decryptor) => decryptor.decrypt(&requests).await,
            None => Vec::new(),
        };
        let mut opened = opened.into_iter();
        for (wrapped, is_key) in &missing {
            let result = opened.next().unwrap_or_else(|| {
                Err(failure::failed(crate::Code::KmsProtocol, Operation::Decrypt, self.kms.uri())
                    .cause("this key service does not open what others encrypted"))
            });
            if let (true, Ok(key)) = (is_key, &result) {
                self.keep(wrapped, key);
            }
            fetched.0.insert(wrapped.clone(), result);
        }
        fetched
    }

    pub(super) fn forget(&self) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn known(&self, wrapped: &[u8]) -> Option<Secret> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.get(wrapped).filter(|(since, _)| since.elapsed() < KEPT_FOR).map(|(_, key)| key.clone())
    }

    /// Where there is no more room, all go: they are asked for again.
    fn keep(&self, wrapped: &[u8], key: &Secret) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= MOST {
            kept.clear();
        }
        kept.insert(wrapped.to_vec(), (Instant::now(), key.clone()));
    }
}

fn bytes(wrapped: &Wrapped) -> &[u8] {
    match wrapped {
        Wrapped::Value(bytes) | Wrapped::DataKey(bytes) => bytes,
    }
}
