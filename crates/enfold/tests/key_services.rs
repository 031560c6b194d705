//! The conformance suite over the providers that need no server.

mod conformance_table;

use std::sync::Arc;

use async_trait::async_trait;
use enfold::kms::conformance::{self, Arranged, Case, Change, Fixture, NO_ABILITY, Outcome, Trouble};
use enfold::kms::{
    Abilities, ControlKey, EncryptionContext, Kdf, KeyManagementService, KeyManagementServiceExt, KeyMaterial, KeyUri,
    LocalKms, MemoryKms, MemoryState, Meter, Passphrase, Retry, RetryOptions, RewrapKeys, RewrapRequest, RotateKey,
    UnwrapRequest, WrapRequest, WrappedKey,
};
use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Keeps what it made, to bring it into trouble by its URI.
#[derive(Default)]
struct Memory {
    made: Mutex<HashMap<KeyUri, Arc<MemoryKms>>>,
    wrapped: bool,
}

#[async_trait]
impl Fixture for Memory {
    fn name(&self) -> String {
        if self.wrapped { "memory, behind retry and meter" } else { "memory" }.to_owned()
    }

    async fn key(&self) -> Arc<dyn KeyManagementService> {
        let mut made = self.made.lock().unwrap();
        let kms = Arc::new(MemoryKms::new(&format!("key-{}", made.len())).unwrap());
        made.insert(kms.uri().clone(), kms.clone());
        if !self.wrapped {
            return kms;
        }
        let quick = RetryOptions { first_pause: Duration::ZERO, ..RetryOptions::default() };
        Arc::new(Retry::new(Arc::new(Meter::new(kms)), quick))
    }

    async fn trouble(&self, kms: &Arc<dyn KeyManagementService>, trouble: Trouble) -> Arranged {
        let state = match trouble {
            Trouble::Disabled => MemoryState::Disabled,
            Trouble::PendingDeletion => MemoryState::PendingDeletion,
            Trouble::Deleted => MemoryState::Deleted,
            Trouble::Denied => MemoryState::Denied,
            Trouble::CredentialExpired => MemoryState::CredentialExpired,
            Trouble::Throttled => MemoryState::Throttled,
            Trouble::TimedOut => MemoryState::TimedOut,
        };
        self.made.lock().unwrap()[kms.uri()].set_state(state);
        Arranged::Done(kms.clone())
    }

    async fn versions(&self, kms: &Arc<dyn KeyManagementService>, change: Change) -> Arranged {
        match change {
            Change::Rotate => kms.rotator().unwrap().rotate().await.unwrap(),
            Change::RetireOld => self.made.lock().unwrap()[kms.uri()].retire_old_versions(),
        }
        Arranged::Done(kms.clone())
    }
}

struct Local {
    folder: tempfile::TempDir,
    next: AtomicU32,
    passphrase: Option<Passphrase>,
}

const ONE_VERSION: &str = "a key file holds one key for ever";
const NO_SERVICE: &str = "a key file has no service that could refuse";

#[async_trait]
impl Fixture for Local {
    fn name(&self) -> String {
        if self.passphrase.is_some() { "local, under a passphrase" } else { "local" }.to_owned()
    }

    async fn key(&self) -> Arc<dyn KeyManagementService> {
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        let (uri, folder) = (format!("local:{n}.key").parse().unwrap(), self.folder.path());
        Arc::new(match &self.passphrase {
            None => LocalKms::init(&uri, folder).unwrap(),
            Some(passphrase) => {
                // Read back, so that it is the key from the file that is tried.
                LocalKms::init_sealed(&uri, folder, passphrase, Kdf::default()).unwrap();
                LocalKms::open_sealed(&uri, folder, passphrase).unwrap()
            }
        })
    }

    async fn trouble(&self, _: &Arc<dyn KeyManagementService>, _: Trouble) -> Arranged {
        Arranged::Impossible(NO_SERVICE)
    }

    async fn versions(&self, _: &Arc<dyn KeyManagementService>, _: Change) -> Arranged {
        Arranged::Impossible(ONE_VERSION)
    }
}

#[tokio::test]
async fn the_memory_provider_passes_every_case() {
    let report = conformance::run(&Memory::default()).await;
    println!("{report}");
    conformance_table::must_be_documented("memory", &report);
    assert_eq!(report.exceptions(), []);
}

#[tokio::test]
async fn behind_wrappers_every_case_passes_as_well() {
    let report = conformance::run(&Memory { wrapped: true, ..Memory::default() }).await;
    println!("{report}");
    assert_eq!(report.exceptions(), []);
}

#[tokio::test]
async fn the_local_provider_passes_every_case_that_a_file_can_be_in() {
    let versions = [Case::Rotated, Case::OldVersion, Case::RetiredVersion];
    let troubles = [
        Case::Disabled,
        Case::PendingDeletion,
        Case::Deleted,
        Case::Denied,
        Case::CredentialExpired,
        Case::Throttled,
        Case::TimedOut,
    ];
    let controls = [Case::DisabledAndEnabled, Case::DeletionCancelled, Case::RotatedByUs, Case::RotatedByItself];
    let expected: Vec<_> = [(&versions[..], ONE_VERSION), (&troubles[..], NO_SERVICE), (&controls[..], NO_ABILITY)]
        .into_iter()
        .flat_map(|(cases, why)| cases.iter().map(move |case| (*case, Outcome::NotRun(why))))
        .collect();
    let passphrase = Passphrase::new("six words drawn with dice".to_owned().into()).unwrap();
    for passphrase in [None, Some(passphrase)] {
        let local = Local { folder: tempfile::tempdir().unwrap(), next: AtomicU32::new(0), passphrase };
        let report = conformance::run(&local).await;
        println!("{report}");
        conformance_table::must_be_documented("local", &report);
        assert_eq!(report.exceptions(), expected);
    }
}

/// A provider with a fault in it, to see that the suite finds it.
struct Broken {
    inner: MemoryKms,
    how: How,
}

#[derive(Clone, Copy, Debug)]
enum How {
    IgnoresContext,
    ReversesBatches,
    KeepsTheKeyInTheClear,
    StopsAtTheFirstBadItem,
    RewrapsWithoutLooking,
    ForgetsOldVersions,
    OpensRetiredVersions,
    NeverRotates,
    OnlySaysThatItIsDone,
    DeletesSoonerThanAsked,
}

#[async_trait]
impl KeyManagementService for Broken {
    fn uri(&self) -> &KeyUri {
        self.inner.uri()
    }

    async fn wrap(&self, requests: &[WrapRequest<'_>]) -> Vec<enfold::Result<WrappedKey>> {
        let empty = EncryptionContext::new();
        match self.how {
            How::IgnoresContext => {
                let bare: Vec<_> = requests.iter().map(|r| WrapRequest { key: r.key, context: &empty }).collect();
                self.inner.wrap(&bare).await
            }
            How::KeepsTheKeyInTheClear => requests.iter().map(|r| WrappedKey::new(r.key.expose().to_vec())).collect(),
            _ => self.inner.wrap(requests).await,
        }
    }

    async fn unwrap(&self, requests: &[UnwrapRequest<'_>]) -> Vec<enfold::Result<KeyMaterial>> {
        let empty = EncryptionContext::new();
        match self.how {
            How::IgnoresContext => {
                let bare: Vec<_> =
                    requests.iter().map(|r| UnwrapRequest { wrapped: r.wrapped, context: &empty }).collect();
                self.inner.unwrap(&bare).await
            }
            How::ReversesBatches => {
                let mut answers = self.inner.unwrap(requests).await;
                answers.reverse();
                answers
            }
            How::StopsAtTheFirstBadItem => {
                let mut answers = self.inner.unwrap(requests).await;
                if let Some(bad) = answers.iter().position(Result::is_err) {
                    answers.truncate(bad + 1);
                }
                answers
            }
            How::KeepsTheKeyInTheClear => {
                let take = |r: &UnwrapRequest<'_>| KeyMaterial::from_slice(&mut r.wrapped.as_bytes().to_vec());
                requests.iter().map(|r| take(r).ok_or_else(wrong)).collect()
            }
            _ => self.inner.unwrap(requests).await,
        }
    }

    fn abilities(&self) -> Abilities<'_> {
        let rewrapper: Option<&dyn RewrapKeys> = matches!(self.how, How::RewrapsWithoutLooking).then_some(self);
        Abilities {
            rewrapper,
            rotator: Some(self),
            describer: Some(&self.inner),
            controller: Some(self),
            ..Abilities::default()
        }
    }
}

#[async_trait]
impl RewrapKeys for Broken {
    async fn rewrap(&self, requests: &[RewrapRequest<'_>]) -> Vec<enfold::Result<WrappedKey>> {
        requests.iter().map(|request| Ok(request.wrapped.clone())).collect()
    }
}

#[async_trait]
impl RotateKey for Broken {
    async fn rotate(&self) -> enfold::Result<()> {
        if !matches!(self.how, How::NeverRotates) {
            self.inner.rotate().await?;
        }
        if matches!(self.how, How::ForgetsOldVersions) {
            self.inner.retire_old_versions();
        }
        Ok(())
    }

    async fn rotate_every(&self, period: Option<Duration>) -> enfold::Result<()> {
        match self.how {
            How::OnlySaysThatItIsDone => Ok(()),
            _ => self.inner.rotate_every(period).await,
        }
    }
}

#[async_trait]
impl ControlKey for Broken {
    async fn disable(&self) -> enfold::Result<()> {
        match self.how {
            How::OnlySaysThatItIsDone => Ok(()),
            _ => self.inner.disable().await,
        }
    }

    async fn enable(&self) -> enfold::Result<()> {
        match self.how {
            How::OnlySaysThatItIsDone => Ok(()),
            _ => self.inner.enable().await,
        }
    }

    async fn schedule_deletion(&self, at_least: Duration) -> enfold::Result<jiff::Timestamp> {
        match self.how {
            How::DeletesSoonerThanAsked => self.inner.schedule_deletion(Duration::from_secs(60)).await,
            _ => self.inner.schedule_deletion(at_least).await,
        }
    }

    async fn cancel_deletion(&self) -> enfold::Result<()> {
        self.inner.cancel_deletion().await
    }
}

fn wrong() -> enfold::Error {
    enfold::Error::new(enfold::Code::WrapInvalid, "no key")
}

#[async_trait]
impl Fixture for How {
    fn name(&self) -> String {
        format!("{self:?}")
    }

    async fn key(&self) -> Arc<dyn KeyManagementService> {
        Arc::new(Broken { inner: MemoryKms::new("broken").unwrap(), how: *self })
    }

    async fn trouble(&self, _: &Arc<dyn KeyManagementService>, _: Trouble) -> Arranged {
        Arranged::Impossible("it is never asked for")
    }

    async fn versions(&self, kms: &Arc<dyn KeyManagementService>, change: Change) -> Arranged {
        // That nothing is retired is the fault of `OpensRetiredVersions`, and plays no part in the others.
        if change == Change::Rotate {
            kms.rotator().unwrap().rotate().await.unwrap();
        }
        Arranged::Done(kms.clone())
    }
}

#[tokio::test]
async fn the_suite_finds_providers_that_break_the_contract() {
    for (how, case) in [
        (How::IgnoresContext, Case::WrongContext),
        (How::ReversesBatches, Case::OrderKept),
        (How::KeepsTheKeyInTheClear, Case::RoundTrip),
        (How::StopsAtTheFirstBadItem, Case::BatchWithOneBadItem),
        (How::RewrapsWithoutLooking, Case::WrongContext),
        (How::ForgetsOldVersions, Case::Rotated),
        (How::ForgetsOldVersions, Case::OldVersion),
        (How::OpensRetiredVersions, Case::RetiredVersion),
        (How::NeverRotates, Case::Rotated),
        (How::ForgetsOldVersions, Case::RotatedByUs),
        (How::OnlySaysThatItIsDone, Case::DisabledAndEnabled),
        (How::OnlySaysThatItIsDone, Case::RotatedByItself),
        (How::DeletesSoonerThanAsked, Case::DeletionCancelled),
    ] {
        let report = conformance::run(&how).await;
        let outcome = report.results.iter().find(|(c, _)| *c == case).map(|(_, o)| o);
        assert!(matches!(outcome, Some(Outcome::Failed(_))), "{how:?} was not found:\n{report}");
    }
}
