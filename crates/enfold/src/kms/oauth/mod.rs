//! Access tokens (RFC 6749) for the key services of clouds: got when they are needed, kept, and renewed before they end.
//!
//! Owns what the clouds have in common: the token that is held, who may wait for it, the calls that are made with it, the
//! requests to whoever issues tokens (`issuer.rs`) and signed assertions (`jwt.rs`). How one signs in to a cloud is that
//! cloud's, behind [`Mint`].
//!
//! A token is renewed by the first call that finds it near its end; the others go on with it meanwhile, and so does that
//! call where renewing fails. A token is replaced at once when the service does not take it any more, or when the file
//! that it was got with is another one: whoever changes a credential needs no restart.

mod issuer;
mod jwt;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use jiff::SignedDuration;
use reqwest::Method;
use zeroize::Zeroizing;

pub(super) use self::issuer::{Form, Issuer, Request};
pub(super) use self::jwt::{Algorithm, Signer};
use super::LOG_TARGET;
use super::failure::Operation;
use super::http::{Answer, Body, Call, Http, HttpOptions};
use super::secret::Stamp;
use super::uri::KeyUri;
use crate::error::{Result, Retry};

/// How long before its end a token is renewed. Google's metadata server hands out another one from four minutes before.
const MARGIN: Duration = Duration::from_secs(225);
/// Not to ask for another token more often than this while the present one is good.
const PATIENCE: Duration = Duration::from_secs(10);

/// A way to sign in.
#[async_trait]
pub(super) trait Mint: Send + Sync {
    /// A new token. Every credential is read for it, and forgotten.
    async fn mint(&self, operation: Operation) -> Result<AccessToken>;

    /// The file that decides who signs in, where there is one.
    fn stamp(&self) -> Option<Stamp>;
}

/// What a call is made with.
pub(super) struct AccessToken {
    secret: Zeroizing<String>,
    /// Before it was asked for, so that ours ends before the issuer's.
    began: Instant,
    life: Duration,
    /// Who pays for the calls, where the credential says so: a project of Google's.
    pub billed_to: Option<String>,
}

/// A service that is called with such a token.
pub(super) struct Service {
    http: Http,
    tokens: Tokens,
}

/// The token of one root key.
struct Tokens {
    mint: Box<dyn Mint>,
    held: Mutex<Option<Held>>,
    /// Held while a token is got, so that a crowd of calls gets one.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Clone)]
struct Held {
    token: Arc<AccessToken>,
    stamp: Option<Stamp>,
    /// Not to be renewed before then.
    patient_until: Option<Instant>,
}

impl AccessToken {
    pub(super) fn new(secret: Zeroizing<String>, began: Instant, life: Duration) -> Self {
        Self { secret, began, life, billed_to: None }
    }

    /// What a request carries that is made with it.
    pub(super) fn headers(&self) -> Vec<(&'static str, Zeroizing<String>)> {
        let payer = self.billed_to.as_ref().map(|project| ("x-goog-user-project", Zeroizing::new(project.clone())));
        [("authorization", self.bearer())].into_iter().chain(payer).collect()
    }

    /// The value of a header `authorization`.
    fn bearer(&self) -> Zeroizing<String> {
        let mut value = Zeroizing::new(String::with_capacity("Bearer ".len() + self.secret.len()));
        value.push_str("Bearer ");
        value.push_str(&self.secret);
        value
    }

    fn has_ended(&self) -> bool {
        self.began.elapsed() >= self.life
    }

    fn nears_its_end(&self) -> bool {
        self.began.elapsed() + MARGIN.min(self.life / 4) >= self.life
    }
}

impl Service {
    pub(super) fn new(options: HttpOptions, mint: Box<dyn Mint>) -> Result<Self> {
        Ok(Self { http: Http::new(options)?, tokens: Tokens::new(mint) })
    }

    /// How the service's clock differs from ours.
    pub(super) fn clock_skew(&self) -> Option<SignedDuration> {
        self.http.clock_skew()
    }

    /// Calls for the root key `uri`. A token that the service does not take any more is replaced once.
    pub(super) async fn call(
        &self,
        operation: Operation,
        uri: &KeyUri,
        method: Method,
        url: &str,
        body: Option<Bytes>,
    ) -> Result<Answer> {
        let call = |token: &AccessToken| Call {
            method: method.clone(),
            url,
            headers: token.headers(),
            body: body.clone().map(Body::Json),
        };
        let token = self.tokens.current(operation).await?;
        let answer = self.http.send(operation, uri, call(&token)).await?;
        if answer.status != 401 {
            return Ok(answer);
        }
        let token = self.tokens.replace(operation, &token).await?;
        self.http.send(operation, uri, call(&token)).await
    }
}

impl Tokens {
    fn new(mint: Box<dyn Mint>) -> Self {
        Self { mint, held: Mutex::default(), turn: tokio::sync::Mutex::new(()) }
    }

    /// The token to call with.
    async fn current(&self, operation: Operation) -> Result<Arc<AccessToken>> {
        let stamp = self.mint.stamp();
        let fresh = |held: &Held| held.is_of(stamp.as_ref()) && !held.wants_renewal();
        if let Some(held) = self.held() {
            if fresh(&held) {
                return Ok(held.token);
            }
            if held.is_of(stamp.as_ref()) && !held.token.has_ended() {
                // Somebody renews it already.
                let Ok(_turn) = self.turn.try_lock() else { return Ok(held.token) };
                // Or has done so meanwhile.
                return match self.held().filter(fresh) {
                    Some(renewed) => Ok(renewed.token),
                    None => Ok(self.renew(operation, stamp, held).await),
                };
            }
        }
        let _turn = self.turn.lock().await;
        match self.held().filter(fresh) {
            Some(held) => Ok(held.token),
            None => self.sign_in(operation, stamp).await,
        }
    }

    /// Another token than `refused`.
    async fn replace(&self, operation: Operation, refused: &Arc<AccessToken>) -> Result<Arc<AccessToken>> {
        let _turn = self.turn.lock().await;
        match self.held().filter(|held| held.token.secret != refused.secret) {
            Some(held) => Ok(held.token),
            None => self.sign_in(operation, self.mint.stamp()).await,
        }
    }

    async fn sign_in(&self, operation: Operation, stamp: Option<Stamp>) -> Result<Arc<AccessToken>> {
        let token = Arc::new(self.mint.mint(operation).await?);
        tracing::debug!(target: LOG_TARGET, seconds = token.life.as_secs(), "signed in");
        *self.lock() = Some(Held { token: token.clone(), stamp, patient_until: None });
        Ok(token)
    }

    /// A token that is still good serves on where there is no other.
    async fn renew(&self, operation: Operation, stamp: Option<Stamp>, mut held: Held) -> Arc<AccessToken> {
        match self.sign_in(operation, stamp).await {
            Ok(token) => token,
            Err(error) => {
                let code = error.code().word();
                let passing = error.code().retry() == Retry::Later;
                tracing::warn!(target: LOG_TARGET, code, passing, "the token nears its end, and there is no other");
                held.patient_until = Some(Instant::now() + PATIENCE.min(held.token.life / 20));
                *self.lock() = Some(held.clone());
                held.token
            }
        }
    }

    fn held(&self) -> Option<Held> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Held>> {
        // No code under this lock panics half-way through a change.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    /// A file that is being replaced at this moment was what it is until it is another.
    fn is_of(&self, stamp: Option<&Stamp>) -> bool {
        self.stamp.as_ref() == stamp || stamp.is_some_and(Stamp::is_of_nothing)
    }

    fn wants_renewal(&self) -> bool {
        let patient = self.patient_until.is_some_and(|until| Instant::now() < until);
        self.token.has_ended() || (self.token.nears_its_end() && !patient)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::error::{Code, Error};

    /// Gives `token-1`, `token-2`, …, each with the life that is left when it is given; or fails.
    #[derive(Default)]
    struct Counting {
        asked: AtomicU32,
        fails: Mutex<bool>,
        stamp: Mutex<Option<Stamp>>,
        age: Duration,
    }

    const HOUR: Duration = Duration::from_secs(3600);

    #[async_trait]
    impl Mint for Arc<Counting> {
        async fn mint(&self, _: Operation) -> Result<AccessToken> {
            let n = self.asked.fetch_add(1, Ordering::SeqCst) + 1;
            tokio::task::yield_now().await;
            if *self.fails.lock().unwrap() {
                return Err(Error::new(Code::KmsUnavailable, "nobody is there"));
            }
            // The first is old already; those after it are new.
            let age = if n == 1 { self.age } else { Duration::ZERO };
            let began = Instant::now().checked_sub(age).unwrap();
            Ok(AccessToken::new(Zeroizing::new(format!("token-{n}")), began, HOUR))
        }

        fn stamp(&self) -> Option<Stamp> {
            self.stamp.lock().unwrap().clone()
        }
    }

    fn tokens(age: Duration) -> (Arc<Counting>, Tokens) {
        let mint = Arc::new(Counting { age, ..Counting::default() });
        (mint.clone(), Tokens::new(Box::new(mint)))
    }

    async fn bearer(tokens: &Tokens) -> String {
        tokens.current(Operation::Wrap).await.unwrap().bearer().to_string()
    }

    #[tokio::test]
    async fn a_crowd_signs_in_once_and_keeps_the_token() {
        let (mint, tokens) = tokens(Duration::ZERO);
        let all = futures_util::future::join_all((0..50).map(|_| bearer(&tokens))).await;
        assert!(all.iter().all(|token| token == "Bearer token-1"));
        assert_eq!(bearer(&tokens).await, "Bearer token-1");
        assert_eq!(mint.asked.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_token_near_its_end_is_renewed_by_one_call_while_the_others_go_on() {
        let (mint, tokens) = tokens(HOUR - Duration::from_secs(60));
        assert_eq!(bearer(&tokens).await, "Bearer token-1");
        let mut all = futures_util::future::join_all((0..20).map(|_| bearer(&tokens))).await;
        all.sort();
        assert_eq!(mint.asked.load(Ordering::SeqCst), 2, "one call renewed it");
        assert_eq!(all[..19], vec!["Bearer token-1".to_owned(); 19]);
        assert_eq!(bearer(&tokens).await, "Bearer token-2");
    }

    #[tokio::test]
    async fn a_good_token_serves_on_while_there_is_no_other_and_an_ended_one_does_not() {
        let (mint, tokens) = tokens(HOUR - Duration::from_secs(60));
        bearer(&tokens).await;
        *mint.fails.lock().unwrap() = true;
        for _ in 0..3 {
            assert_eq!(bearer(&tokens).await, "Bearer token-1");
        }
        assert_eq!(mint.asked.load(Ordering::SeqCst), 2, "it was not asked for with every call");

        let (mint, tokens) = self::tokens(HOUR);
        bearer(&tokens).await;
        *mint.fails.lock().unwrap() = true;
        assert_eq!(tokens.current(Operation::Wrap).await.err().unwrap().code(), Code::KmsUnavailable);
    }

    #[tokio::test]
    async fn a_refused_token_is_replaced_once_for_all_who_held_it() {
        let (mint, tokens) = tokens(Duration::ZERO);
        let old = tokens.current(Operation::Wrap).await.unwrap();
        for _ in 0..3 {
            let new = tokens.replace(Operation::Wrap, &old).await.unwrap();
            assert_eq!(new.bearer().as_str(), "Bearer token-2");
        }
        assert_eq!(mint.asked.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn another_credential_file_means_another_token() {
        let (mint, tokens) = tokens(Duration::ZERO);
        bearer(&tokens).await;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("credentials");
        std::fs::write(&path, "x").unwrap();
        *mint.stamp.lock().unwrap() = Some(Stamp::of(&path));
        assert_eq!(bearer(&tokens).await, "Bearer token-2");
        assert_eq!(bearer(&tokens).await, "Bearer token-2");
        // One that is taken away for a moment, to be replaced, is not another one yet.
        std::fs::remove_file(&path).unwrap();
        *mint.stamp.lock().unwrap() = Some(Stamp::of(&path));
        assert_eq!(bearer(&tokens).await, "Bearer token-2");
    }
}
