//! What a key service opens for readers: values that it encrypted itself, and data keys that it wrapped for others.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use enfold_core::readers::{Secret, Wrapped};

use crate::kms::{DecryptRequest, KeyManagementService, Operation, failure};
use crate::{Code, Error, Result};

/// Data keys of others that are kept, and for how long: as the cache of a ring, unless that is set otherwise.
pub(super) const MOST: usize = 10_000;
pub(super) const KEPT_FOR: Duration = Duration::from_secs(300);

/// Has the form of a ciphertext everywhere, and none was ever made like it: Vault looks at the words before it decrypts.
const NOBODY_S: &[u8] = b"vault:v1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// What was opened for values, by their numbers: keys of which one may be a value's, or the value itself.
pub(crate) type Fetched = HashMap<usize, Result<Vec<Secret>>>;

/// A root key that others encrypted under.
pub(super) struct KeyService {
    kms: Arc<dyn KeyManagementService>,
    context: BTreeMap<String, String>,
    /// Values are opened once and not kept; data keys may have many values.
    kept: Mutex<HashMap<Vec<u8>, (Instant, Secret)>>,
}

impl KeyService {
    pub(super) fn new(kms: Arc<dyn KeyManagementService>, context: BTreeMap<String, String>) -> Self {
        Self { kms, context, kept: Mutex::default() }
    }

    /// Each once, whatever number of values need it.
    pub(super) async fn fetch(&self, wanted: Vec<(usize, Wrapped)>) -> Fetched {
        let opened = self.open(wanted.iter().map(|(_, wrapped)| wrapped)).await;
        let of =
            |(at, wrapped): &(usize, Wrapped)| Some((*at, opened.get(bytes(wrapped))?.clone().map(|key| vec![key])));
        wanted.iter().filter_map(of).collect()
    }

    async fn open(&self, wanted: impl Iterator<Item = &Wrapped>) -> HashMap<Vec<u8>, Result<Secret>> {
        let mut fetched = HashMap::new();
        let mut missing: BTreeMap<&[u8], bool> = BTreeMap::new();
        for wrapped in wanted {
            let (is_key, wrapped) = (matches!(wrapped, Wrapped::DataKey(_)), bytes(wrapped));
            match is_key.then(|| self.known(wrapped)).flatten() {
                Some(key) => drop(fetched.insert(wrapped.to_vec(), Ok(key))),
                None => drop(missing.insert(wrapped, is_key)),
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
            let result = opened.next().unwrap_or_else(|| Err(self.opens_nothing()));
            if let (true, Ok(key)) = (is_key, &result) {
                self.keep(wrapped, key);
            }
            fetched.insert(wrapped.to_vec(), result);
        }
        fetched
    }

    /// Whether the service answers, and lets this process decrypt: it is asked to open what nobody made, and says so.
    pub(super) async fn probe(&self) -> Result<()> {
        let Some(decryptor) = self.kms.abilities().decryptor else { return Err(self.opens_nothing()) };
        let request = DecryptRequest { ciphertext: NOBODY_S, context: &self.context };
        match decryptor.decrypt(&[request]).await.into_iter().next() {
            Some(Err(error)) if error.code() != Code::WrapInvalid => Err(error),
            Some(_) => Ok(()),
            None => Err(self.opens_nothing()),
        }
    }

    fn opens_nothing(&self) -> Error {
        failure::failed(Code::KmsProtocol, Operation::Decrypt, self.kms.uri())
            .cause("this key service does not open what others encrypted")
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
        // It is looked up first.
        Wrapped::Listed(_) => &[],
    }
}
