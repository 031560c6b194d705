//! A token, from the sign-in to its end.
//!
//! A token is renewed when two thirds of its life are over, and replaced by a new sign-in where it cannot be renewed or
//! where renewing it brings little more (its longest life is near). A task in the background does that, so that a
//! process that calls nothing for an hour does not lose a token which nobody can sign in for again; calls do it
//! themselves where no task can (after a fork, in a runtime that is gone). While the server does not answer, or refuses,
//! the token that is there serves until its end.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use reqwest::Method;
use serde::Deserialize;
use tokio::task::JoinHandle;
use zeroize::Zeroizing;

use super::{login, wire};
use crate::error::{Code, Result, Retry};
use crate::kms::LOG_TARGET;
use crate::kms::failure::{self, Operation};
use crate::kms::http::{Answer, Body, Call, Http};
use crate::kms::json::Text;
use crate::kms::uri::KeyUri;
use crate::policy::VaultSignIn;

/// The shortest time between two tries to renew.
const PATIENCE: Duration = Duration::from_secs(1);

/// What the HTTP library of both servers says to whoever comes without TLS to a listener that has it.
const WANTS_TLS: &[u8] = b"Client sent an HTTP request to an HTTPS server";

/// A server, as every part of this module calls it.
pub(super) struct Vault {
    pub http: Http,
    pub uri: KeyUri,
    /// `https://HOST:PORT`.
    pub address: String,
}

/// A token that was given, with how long it lives.
pub(super) struct Session {
    token: Zeroizing<String>,
    /// None: it does not end, or the server does not say.
    life: Option<Life>,
}

struct Life {
    /// Before the request was sent, so that ours ends before the server's.
    began: Instant,
    whole: Duration,
    /// What its first grant was, to see when renewing brings little more.
    first: Duration,
    renewable: bool,
}

/// `auth` of an answer that gives a token.
#[derive(Deserialize)]
pub(super) struct Grant {
    pub client_token: Text,
    /// Seconds; zero for a token that does not end.
    #[serde(default)]
    pub lease_duration: u64,
    #[serde(default)]
    pub renewable: bool,
}

pub(super) struct Sessions {
    vault: Vault,
    sign_in: VaultSignIn,
    namespace: Option<String>,
    held: Mutex<Option<Arc<Session>>>,
    /// Held while a token is got or renewed, so that a crowd of calls does it once.
    turn: tokio::sync::Mutex<()>,
    keeper: Mutex<Option<JoinHandle<()>>>,
}

impl Vault {
    /// Calls `/v1/PATH`.
    pub(super) async fn send(
        &self,
        operation: Operation,
        method: Method,
        path: &str,
        namespace: Option<&str>,
        session: Option<&Session>,
        body: Option<Bytes>,
    ) -> Result<Answer> {
        // Servers refuse calls without it where they are told to: it keeps pages in a browser from making them.
        let mut headers = vec![("x-vault-request", Zeroizing::new("true".to_owned()))];
        if let Some(session) = session {
            headers.push(("x-vault-token", session.token.clone()));
        }
        if let Some(namespace) = namespace {
            headers.push(("x-vault-namespace", Zeroizing::new(namespace.to_owned())));
        }
        let url = format!("{}/v1/{path}", self.address);
        let body = body.map(Body::Json);
        let answer = self.http.send(operation, &self.uri, Call { method, url: &url, headers, body }).await?;
        if answer.status == 400 && answer.body.starts_with(WANTS_TLS) {
            return Err(failure::failed(Code::KmsProtocol, operation, &self.uri)
                .cause("the server speaks TLS alone there")
                .hint("write `vault://` instead of `vault+http://` in the URI"));
        }
        Ok(answer)
    }
}

impl Session {
    pub(super) fn new(grant: Grant, began: Instant) -> Self {
        let whole = Duration::from_secs(grant.lease_duration);
        let life = (!whole.is_zero()).then_some(Life { began, whole, first: whole, renewable: grant.renewable });
        Self { token: grant.client_token.0, life }
    }

    fn has_ended(&self) -> bool {
        self.life.as_ref().is_some_and(|life| life.began.elapsed() >= life.whole)
    }

    /// Nobody renewed it in the background.
    fn is_overdue(&self) -> bool {
        self.life.as_ref().is_some_and(|life| life.began.elapsed() >= life.whole * 9 / 10)
    }

    fn renew_in(&self) -> Option<Duration> {
        let life = self.life.as_ref()?;
        Some((life.whole * 2 / 3).saturating_sub(life.began.elapsed()))
    }
}

impl Sessions {
    pub(super) fn new(vault: Vault, sign_in: VaultSignIn, namespace: Option<String>) -> Self {
        let (held, turn, keeper) = (Mutex::default(), tokio::sync::Mutex::new(()), Mutex::default());
        Self { vault, sign_in, namespace, held, turn, keeper }
    }

    pub(super) fn vault(&self) -> &Vault {
        &self.vault
    }

    /// The token to call with.
    pub(super) async fn current(self: &Arc<Self>, operation: Operation) -> Result<Arc<Session>> {
        if let Some(session) = self.held().filter(|s| !s.is_overdue()) {
            return Ok(session);
        }
        let _turn = self.turn.lock().await;
        match self.held() {
            Some(session) if !session.is_overdue() => Ok(session),
            Some(session) if !session.has_ended() => Ok(self.extend(operation, &session).await),
            _ => self.sign_in(operation).await,
        }
    }

    /// Whether the server still knows the token: a refusal is then for want of a right. Where it cannot be asked, the
    /// refusal stands.
    pub(super) async fn is_known(&self, operation: Operation, session: &Session) -> bool {
        !matches!(self.own(operation, Method::GET, "lookup-self", session, None).await, Ok(answer) if answer.status == 403)
    }

    /// Another token than `refused`.
    pub(super) async fn replace(self: &Arc<Self>, operation: Operation, refused: &Session) -> Result<Arc<Session>> {
        let _turn = self.turn.lock().await;
        if let Some(session) = self.held().filter(|s| s.token != refused.token) {
            return Ok(session);
        }
        let session = self.sign_in(operation).await?;
        if session.token == refused.token {
            return Err(failure::credential_expired(operation, &self.vault.uri)
                .cause("the server does not know the token any more, or the token may do nothing"));
        }
        Ok(session)
    }

    fn held(&self) -> Option<Arc<Session>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn hold(self: &Arc<Self>, session: Session) -> Arc<Session> {
        let session = Arc::new(session);
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = Some(session.clone());
        self.keep();
        session
    }

    async fn sign_in(self: &Arc<Self>, operation: Operation) -> Result<Arc<Session>> {
        let session = login::sign_in(&self.vault, operation, &self.sign_in, self.namespace.as_deref()).await?;
        tracing::debug!(target: LOG_TARGET, root = self.vault.uri.as_str(), "signed in");
        Ok(self.hold(session))
    }

    /// A token with more life, where there is one to be had; `session` itself otherwise. To be called in turn.
    async fn extend(self: &Arc<Self>, operation: Operation, session: &Arc<Session>) -> Arc<Session> {
        match self.renew(operation, session).await {
            Ok(Some(renewed)) => return self.hold(renewed),
            // The server is away: asking it for another token would fail in the same way.
            Err(error) if error.code().retry() == Retry::Later => return session.clone(),
            Ok(None) | Err(_) => {}
        }
        match self.sign_in(operation).await {
            Ok(fresh) => fresh,
            Err(error) => {
                let (root, code) = (self.vault.uri.as_str(), error.code().word());
                tracing::warn!(target: LOG_TARGET, root, code, "the token nears its end, and there is no other");
                session.clone()
            }
        }
    }

    /// None where the token cannot be renewed, or not for much longer.
    async fn renew(&self, operation: Operation, session: &Session) -> Result<Option<Session>> {
        let Some(life) = session.life.as_ref().filter(|life| life.renewable) else { return Ok(None) };
        let began = Instant::now();
        let answer = self.own(operation, Method::POST, "renew-self", session, Some(Bytes::from_static(b"{}"))).await?;
        let grant: Grant = match answer.status {
            200 => login::grant(operation, &self.vault.uri, &answer)?,
            _ => return Err(wire::failed(operation, &self.vault.uri, &answer)),
        };
        let mut renewed = Session::new(grant, began);
        if let Some(fresh) = &mut renewed.life {
            fresh.first = life.first;
            if fresh.whole < life.first / 2 && !matches!(self.sign_in, VaultSignIn::Token { .. }) {
                return Ok(None);
            }
        }
        Ok(Some(renewed))
    }

    /// What a token may always ask about itself, in the namespace that it came from.
    async fn own(
        &self,
        operation: Operation,
        method: Method,
        what: &str,
        session: &Session,
        body: Option<Bytes>,
    ) -> Result<Answer> {
        let path = format!("auth/token/{what}");
        self.vault.send(operation, method, &path, self.namespace.as_deref(), Some(session), body).await
    }

    /// Sees to it that a task renews the token, if it ends at all.
    fn keep(self: &Arc<Self>) {
        let mut keeper = self.keeper.lock().unwrap_or_else(PoisonError::into_inner);
        if keeper.as_ref().is_some_and(|task| !task.is_finished()) {
            return;
        }
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            *keeper = Some(runtime.spawn(renew_in_time(Arc::downgrade(self))));
        }
    }
}

impl Drop for Sessions {
    fn drop(&mut self) {
        if let Some(task) = self.keeper.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            task.abort();
        }
    }
}

/// Ends with the provider, or with a token that does not end.
async fn renew_in_time(sessions: Weak<Sessions>) {
    loop {
        let Some(wait) = sessions.upgrade().and_then(|s| s.held()?.renew_in()) else { return };
        // A server that refuses or is away is asked again, but not without a pause.
        tokio::time::sleep(wait.max(PATIENCE)).await;
        let Some(sessions) = sessions.upgrade() else { return };
        let _turn = sessions.turn.lock().await;
        let Some(session) = sessions.held() else { return };
        if session.has_ended() {
            return;
        }
        if session.renew_in().is_some_and(|wait| wait.is_zero()) {
            sessions.extend(Operation::Describe, &session).await;
        }
    }
}
