//! Signing in and out: at the issuer that the policy names (OpenID Connect, authorization code with PKCE), or in development with a
//! service key.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Extension;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::response::Response;
use enfold::access::{Permission, ShownKey};
use enfold::policy::{ConsoleSignIn, Environment};
use enfold::{Code, Error, Result, private_file};
use http_body_util::{BodyExt, Limited};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::Mutex;
use url::form_urlencoded;
use zeroize::Zeroizing;

use super::guard::{self, Cookie, check_origin, cookie, hold, ours, see_other};
use super::session::{Holder, challenge};
use super::view::{Chrome, Html, SignInPage};
use super::{SIGN_IN, SIGNED_IN};
use crate::Shared;
use crate::api::{Call, Failure, Sought};
use crate::identity::{Caller, Issuer, person, unauthenticated};

/// Between the start of a sign-in and its end the browser shows by this that both are its own.
const STATE: &str = "enfold_sign_in";
const STATE_SECONDS: u64 = 600;
/// What the issuer says of itself changes seldom.
const ABOUT_GOOD_FOR: Duration = Duration::from_secs(300);
const LONGEST_SECRET: usize = 4_096;
/// A form with a service key in it.
const LONGEST_FORM: usize = 4_096;

/// The console as a client of an issuer.
pub(crate) struct Client {
    policy: ConsoleSignIn,
    secret: Option<Zeroizing<String>>,
    about: Mutex<Option<(Instant, Arc<Value>)>>,
}

impl Client {
    /// # Errors
    /// As [`private_file::read`] has it, where the secret cannot be read.
    pub(crate) fn new(policy: &ConsoleSignIn) -> Result<Self> {
        let secret = policy.client_secret_file.as_deref().map(secret).transpose()?;
        Ok(Self { policy: policy.clone(), secret, about: Mutex::default() })
    }

    /// What the issuer says of itself, asked for seldom, and by one at a time.
    async fn about(&self, issuer: &Issuer) -> Result<Arc<Value>> {
        let mut held = self.about.lock().await;
        if let Some((_, about)) = held.as_ref().filter(|(at, _)| at.elapsed() < ABOUT_GOOD_FOR) {
            return Ok(Arc::clone(about));
        }
        let about = Arc::new(issuer.keys.fetcher.about().await?);
        *held = Some((Instant::now(), Arc::clone(&about)));
        Ok(about)
    }

    fn redirect_uri(&self) -> String {
        format!("{}{SIGNED_IN}", self.policy.url)
    }

    /// Takes a code for the ID token (OpenID Connect Core 1.0, section 3.1.3).
    async fn id_token(&self, issuer: &Issuer, code: &str, verifier: &str) -> Result<Zeroizing<String>> {
        let about = self.about(issuer).await?;
        let client = self.secret.as_ref().map(|secret| (self.policy.client_id.as_str(), secret.as_str()));
        let form = {
            let mut form = form_urlencoded::Serializer::new(String::new());
            form.extend_pairs([("grant_type", "authorization_code"), ("code", code), ("code_verifier", verifier)]);
            form.append_pair("redirect_uri", &self.redirect_uri());
            if client.is_none() {
                form.append_pair("client_id", &self.policy.client_id);
            }
            form.finish()
        };
        let fetcher = &issuer.keys.fetcher;
        let answer = fetcher.post(fetcher.place(&about, "token_endpoint")?, form, client).await?;
        answer["id_token"].as_str().map(|token| Zeroizing::new(token.to_owned())).ok_or_else(|| {
            Error::new(Code::IssuerUnavailable, "the issuer gave no ID token for the code").hint("sign in again")
        })
    }
}

fn secret(path: &Path) -> Result<Zeroizing<String>> {
    let bytes = private_file::read(path, "client secret", LONGEST_SECRET)?;
    let text = std::str::from_utf8(&bytes).map(str::trim).unwrap_or_default();
    if text.is_empty() {
        return Err(Error::new(Code::KeyFileInvalid, format!("`{}` holds no client secret", path.display())));
    }
    Ok(Zeroizing::new(text.to_owned()))
}

#[derive(Deserialize)]
pub(super) struct Wanted {
    next: Option<String>,
}

/// The page at which somebody signs in.
pub(super) async fn page(
    State(shared): State<Arc<Shared>>,
    Sought(wanted): Sought<Wanted>,
) -> Result<Html<SignInPage>, Failure> {
    let next = ours(wanted.next.as_deref()).to_owned();
    Ok(Html(SignInPage {
        chrome: Chrome::outside(&shared),
        issuer: shared.client.as_ref().map(|client| client.policy.issuer.clone()),
        next_encoded: form_urlencoded::byte_serialize(next.as_bytes()).collect(),
        with_key: takes_keys(&shared),
        next,
    }))
}

/// Sends the browser to the issuer.
pub(super) async fn start(
    State(shared): State<Arc<Shared>>,
    Sought(wanted): Sought<Wanted>,
) -> Result<Response, Failure> {
    let (client, issuer) = client(&shared)?;
    let about = client.about(issuer).await?;
    let place = issuer.keys.fetcher.place(&about, "authorization_endpoint")?;
    let (state, nonce, verifier) = shared.sessions.begin(ours(wanted.next.as_deref()).to_owned())?;
    let mut place = url::Url::parse(place).map_err(|_| Error::new(Code::Internal, "a URL does not parse again"))?;
    place.query_pairs_mut().extend_pairs([
        ("response_type", "code"),
        ("client_id", &client.policy.client_id),
        ("redirect_uri", &client.redirect_uri()),
        ("scope", &client.policy.scopes.join(" ")),
        ("state", &state),
        ("nonce", &nonce),
        ("code_challenge", &challenge(&verifier)),
        ("code_challenge_method", "S256"),
    ]);
    let mut response = see_other(place.as_str());
    let held = cookie(&shared, STATE, "/console", &state, Some(STATE_SECONDS));
    response.headers_mut().append(header::SET_COOKIE, held);
    Ok(response)
}

#[derive(Deserialize)]
pub(super) struct SentBack {
    code: Option<String>,
    state: Option<String>,
    /// RFC 9207.
    iss: Option<String>,
}

/// Where the issuer sends the browser back to.
pub(super) async fn signed_in(
    State(shared): State<Arc<Shared>>,
    Extension(call): Extension<Call>,
    headers: HeaderMap,
    Sought(sent): Sought<SentBack>,
) -> Result<Response, Failure> {
    let (client, issuer) = client(&shared)?;
    // Whoever lets somebody else's browser open this page has begun nothing in it.
    let state = sent.state.filter(|state| guard::held(&headers, STATE).as_ref() == Some(state));
    let begun = state.and_then(|state| shared.sessions.take(&state)).ok_or_else(not_begun)?;
    if sent.iss.as_ref().is_some_and(|iss| *iss != issuer.policy.url) {
        return Err(Failure(not_begun()));
    }
    let code = sent.code.ok_or_else(|| {
        Error::new(Code::Unauthenticated, "the issuer has let nobody in").hint("sign in again, as somebody who may")
    })?;
    let token = client.id_token(issuer, &code, &begun.verifier).await?;
    let identity = Arc::new(person(issuer, &token, &client.policy.client_id, &begun.nonce).await?);
    check_use(&Caller::new(shared.rules.as_ref(), Arc::clone(&identity), call.source))?;
    let_in(&shared, Holder::Person(identity), &begun.next)
}

/// Signs in with a service key, in development.
pub(super) async fn with_key(
    State(shared): State<Arc<Shared>>,
    Extension(call): Extension<Call>,
    request: Request,
) -> Result<Response, Failure> {
    if !takes_keys(&shared) {
        return Err(Failure(
            Error::new(Code::UnknownEndpoint, "service keys are for programs")
                .hint("sign in at the issuer of the policy's `service.console`"),
        ));
    }
    check_origin(request.headers())?;
    let body = Limited::new(request.into_body(), LONGEST_FORM).collect().await;
    let body = body.map_err(|_| Error::new(Code::RequestTooLarge, "the form is too large, or broke off"))?.to_bytes();
    let field = |name: &str| {
        let mut fields = form_urlencoded::parse(&body);
        fields.find(|(field, _)| field == name).map(|(_, text)| Zeroizing::new(text.trim().to_owned()))
    };
    let key = field("key").unwrap_or_default();
    let shown = ShownKey::parse(&key).ok_or_else(unauthenticated)?;
    check_use(&Caller::new(shared.rules.as_ref(), Arc::new(shared.service_keys.identity(&shown)?), call.source))?;
    let next = field("next");
    let_in(&shared, Holder::ServiceKey(shown.id().to_owned()), ours(next.as_ref().map(|next| next.as_str())))
}

/// Ends the session.
pub(super) async fn sign_out(
    State(shared): State<Arc<Shared>>,
    Extension(Cookie(held)): Extension<Cookie>,
) -> Response {
    shared.sessions.close(&held);
    let mut response = see_other(SIGN_IN);
    response.headers_mut().append(header::SET_COOKIE, hold(&shared, ""));
    response
}

/// Nobody is let in who would see nothing.
fn check_use(caller: &Caller) -> Result<()> {
    let shown = [Permission::Read, Permission::Jobs, Permission::Admin, Permission::Audit];
    if shown.iter().any(|permission| caller.has(*permission)) {
        return Ok(());
    }
    Err(Error::new(Code::PermissionDenied, "whoever signed in has no role that the console has anything for")
        .hint("the rules in `service.issuers` say whose claims grant which role"))
}

fn let_in(shared: &Shared, holder: Holder, next: &str) -> Result<Response, Failure> {
    let held = shared.sessions.open(holder)?;
    let mut response = see_other(next);
    response.headers_mut().append(header::SET_COOKIE, hold(shared, &held));
    response.headers_mut().append(header::SET_COOKIE, cookie(shared, STATE, "/console", "", None));
    Ok(response)
}

fn takes_keys(shared: &Shared) -> bool {
    shared.enfold.policy().environment == Environment::Development
}

fn client(shared: &Shared) -> Result<(&Client, &Issuer)> {
    let client = shared.client.as_ref();
    let found = client.and_then(|client| {
        let issuer = shared.issuers.iter().find(|issuer| issuer.name == client.policy.issuer)?;
        Some((client, issuer))
    });
    found.ok_or_else(|| {
        Error::new(Code::UnknownEndpoint, "the policy says of no issuer that people sign in there")
            .hint("name one in `service.console`")
    })
}

fn not_begun() -> Error {
    Error::new(Code::Unauthenticated, "no sign-in was begun in this browser, or it took too long").hint("sign in again")
}
