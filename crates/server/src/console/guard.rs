//! What stands around each page: who is at the browser, whether a form is ours, the page's permission, and the headers that keep
//! other sites out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::{FromRequestParts, Request, State};
use axum::http::header::{self, HeaderName};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use enfold::access::Permission;
use enfold::{CallContext, Code, Error, Result};
use http_body_util::{BodyExt, Limited};

use super::session::{Holder, Notice, SignedIn};
use super::view::{Chrome, error_page};
use super::{HOME, SIGN_IN};
use crate::Shared;
use crate::api::{Call, Failure, Written};
use crate::identity::{self, Caller};

/// Forms of the console are small.
const LONGEST_FORM: usize = 16 * 1024;
const SESSION: &str = "enfold_session";
/// Nothing but what the service itself gives out is loaded, run or framed, and forms go nowhere else.
const CONTENT_SECURITY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                                form-action 'self'; frame-ancestors 'none'; base-uri 'none'";

/// The fields of a form, without its token.
#[derive(Clone, Default)]
pub(super) struct Fields(BTreeMap<String, String>);

/// What the browser holds of a session.
#[derive(Clone)]
pub(super) struct Cookie(pub(super) String);

impl Fields {
    /// What stands in a field; none where that is nothing but blanks.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(|text| text.trim()).filter(|text| !text.is_empty())
    }

    pub(super) fn required(&self, name: &str, what: &str) -> Result<&str> {
        self.get(name).ok_or_else(|| Error::new(Code::Usage, format!("{what} is missing")).hint("nothing was changed"))
    }

    /// All of them, to tell whether a form is the one of before.
    pub(super) fn content(&self) -> String {
        url::form_urlencoded::Serializer::new(String::new()).extend_pairs(&self.0).finish()
    }
}

/// A form that somebody sent, with what its handler needs.
pub(super) struct Sent {
    pub(super) shared: Arc<Shared>,
    pub(super) caller: Arc<Caller>,
    pub(super) fields: Fields,
    call: Call,
    cookie: Cookie,
}

impl FromRequestParts<Arc<Shared>> for Sent {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, shared: &Arc<Shared>) -> Result<Self, Failure> {
        fn set<T: Clone + Send + Sync + 'static>(parts: &Parts) -> Result<T> {
            let found = parts.extensions.get::<T>().cloned();
            found.ok_or_else(|| Error::new(Code::Internal, "a form came past the guard"))
        }
        let (caller, fields, call, cookie) = (set(parts)?, set(parts)?, set(parts)?, set(parts)?);
        Ok(Self { shared: Arc::clone(shared), caller, fields, call, cookie })
    }
}

impl Sent {
    pub(super) fn context(&self, reason: Option<String>) -> CallContext {
        self.call.context(&self.caller, reason)
    }

    /// Goes on to a page, which says this once.
    pub(super) fn answer(&self, notice: Notice, to: &str) -> Response {
        self.shared.sessions.say(&self.cookie.0, notice);
        see_other(to)
    }

    /// As [`Self::answer`], of what went well.
    pub(super) fn done(&self, text: impl Into<String>, to: &str) -> Response {
        self.answer(Notice { is_error: false, text: text.into() }, to)
    }
}

/// Finds out who is at the browser; nobody else's request goes on.
pub(super) async fn admit(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let is_read = request.method() == Method::GET;
    let cookie = session_cookie(request.headers());
    // Parts of pages are fetched by themselves, and what is said once belongs on a page.
    let is_page = is_read && !is_part(request.headers());
    let signed_in = cookie.as_ref().and_then(|cookie| shared.sessions.find(&cookie.0, is_page));
    let (Some(cookie), Some(signed_in)) = (cookie, signed_in) else {
        return nobody(is_page, request.uri());
    };
    let identity = match &signed_in.holder {
        Holder::Person(identity) => Ok(Arc::clone(identity)),
        Holder::ServiceKey(id) => shared.service_keys.identity_by_id(id).map(Arc::new),
    };
    let source = request.extensions().get::<Call>().and_then(|call| call.source);
    let known = identity.map(|identity| Arc::new(Caller::new(shared.rules.as_ref(), identity, source)));
    let known = known.and_then(|caller| shared.rates.take(&caller.actor, Instant::now()).map(|()| caller));
    let caller = match known {
        Ok(caller) => caller,
        Err(error) if error.code() == Code::Unauthenticated => {
            shared.sessions.close(&cookie.0);
            return nobody(is_page, request.uri());
        }
        Err(error) => return Failure(error).into_response(),
    };
    let mut request = request;
    if !is_read {
        request = match with_fields(request, &signed_in).await {
            Ok(request) => request,
            Err(error) => return Failure(error).into_response(),
        };
    }
    let chrome = Chrome::of(&shared, &caller, &signed_in, request.uri().path());
    let extensions = request.extensions_mut();
    extensions.insert(chrome.clone());
    extensions.insert(Arc::clone(&caller));
    extensions.insert(cookie);
    let mut response = next.run(request).await;
    response.extensions_mut().insert(chrome);
    response.extensions_mut().insert(caller);
    response
}

/// Lets somebody with one of the permissions on; with none named, anybody who is signed in.
pub(super) async fn permit(State(needed): State<&'static [Permission]>, request: Request, next: Next) -> Response {
    let caller = request.extensions().get::<Arc<Caller>>();
    let checked = match (caller, needed) {
        (Some(_), []) => Ok(()),
        (Some(caller), [first, others @ ..]) => match caller.check(*first) {
            Err(_) if others.iter().any(|permission| caller.has(*permission)) => Ok(()),
            checked => checked,
        },
        (None, needed) => Err(identity::denied(needed.first().copied().unwrap_or(Permission::Read))),
    };
    match checked {
        Ok(()) => next.run(request).await,
        Err(error) => Failure(error).into_response(),
    }
}

/// Writes errors as pages, and the headers of security on everything.
pub(super) async fn dress(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    if let Some(error) = response.extensions().get::<Error>().cloned() {
        let chrome = response.extensions().get::<Chrome>().cloned().unwrap_or_else(|| Chrome::outside(&shared));
        let (mut parts, _) = response.into_parts();
        let (written, body) = error_page(chrome, &error).into_response().into_parts();
        parts.headers.extend(written.headers);
        parts.extensions.insert(Written);
        response = Response::from_parts(parts, body);
    }
    let headers = response.headers_mut();
    let fixed: [(HeaderName, &'static str); 6] = [
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        // Not `no-referrer`: a browser would then keep from us where a form came from.
        (header::REFERRER_POLICY, "same-origin"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ];
    for (name, value) in fixed {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if shared.is_secure() {
        headers.insert(header::STRICT_TRANSPORT_SECURITY, HeaderValue::from_static("max-age=31536000"));
    }
    response
}

/// The browser is told to hold `value` for the session, or with an empty one to forget it.
pub(super) fn hold(shared: &Shared, value: &str) -> HeaderValue {
    cookie(shared, SESSION, "/", value, None)
}

/// `__Host-` binds a cookie to this host and to TLS (RFC 6265bis, section 4.1.3.2); where people come without TLS, to loopback, a
/// browser would refuse it.
pub(super) fn cookie(shared: &Shared, name: &str, path: &str, value: &str, seconds: Option<u64>) -> HeaderValue {
    let (prefix, secure) = if shared.is_secure() { (prefix(path), "; Secure") } else { ("", "") };
    let life = match (value.is_empty(), seconds) {
        (true, _) => "; Max-Age=0".to_owned(),
        (false, Some(seconds)) => format!("; Max-Age={seconds}"),
        (false, None) => String::new(),
    };
    // `Lax` and not `Strict`: people come back from their issuer.
    let text = format!("{prefix}{name}={value}; Path={path}; HttpOnly; SameSite=Lax{secure}{life}");
    HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

fn prefix(path: &str) -> &'static str {
    if path == "/" { "__Host-" } else { "__Secure-" }
}

/// What the browser holds under this name, whichever prefix it was given.
pub(super) fn held(headers: &HeaderMap, name: &str) -> Option<String> {
    let lines = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
    let mut pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    let bare =
        |full: &str| full.strip_prefix("__Host-").or_else(|| full.strip_prefix("__Secure-")).unwrap_or(full) == name;
    pairs.find(|(full, _)| bare(full)).map(|(_, value)| value.to_owned())
}

fn session_cookie(headers: &HeaderMap) -> Option<Cookie> {
    held(headers, SESSION).map(Cookie)
}

/// Whether the console's own script asks for a part of a page.
pub(super) fn is_part(headers: &HeaderMap) -> bool {
    headers.contains_key("x-enfold-part")
}

/// The request with the fields of its form, if the form is one of this session's pages.
async fn with_fields(request: Request, signed_in: &SignedIn) -> Result<Request> {
    let (mut parts, body) = request.into_parts();
    check_origin(&parts.headers)?;
    let body = Limited::new(body, LONGEST_FORM).collect().await;
    let body = body.map_err(|_| Error::new(Code::RequestTooLarge, "the form is too large, or broke off"))?.to_bytes();
    let mut fields: BTreeMap<String, String> = url::form_urlencoded::parse(&body).into_owned().collect();
    let token = fields.remove("form_token").unwrap_or_default();
    if !signed_in.made(&token) {
        return Err(foreign());
    }
    parts.extensions.insert(Fields(fields));
    Ok(Request::from_parts(parts, Body::empty()))
}

/// A form of another site is refused by where its browser says that it comes from, before its token is looked at.
pub(super) fn check_origin(headers: &HeaderMap) -> Result<()> {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let is_ours = match text(header::ORIGIN) {
        Some(origin) => origin.split_once("://").map(|(_, host)| host) == text(header::HOST),
        None => matches!(text(HeaderName::from_static("sec-fetch-site")), None | Some("same-origin")),
    };
    if is_ours { Ok(()) } else { Err(foreign()) }
}

fn foreign() -> Error {
    Error::new(Code::PermissionDenied, "the form is not one of this session's pages")
        .hint("open the page again, and send its form")
        .hint("nothing was changed")
}

/// For a page, the way to sign in; a form or a part of a page cannot be gone on with after it.
fn nobody(is_page: bool, from: &Uri) -> Response {
    if !is_page {
        let error = Error::new(Code::Unauthenticated, "nobody is signed in any more");
        return Failure(error.hint("sign in again: nothing was changed")).into_response();
    }
    let from = from.path_and_query().map_or(HOME, |from| from.as_str());
    let next: String = url::form_urlencoded::byte_serialize(from.as_bytes()).collect();
    see_other(&format!("{SIGN_IN}?next={next}"))
}

/// Where somebody wanted to go, if that is a page of ours.
pub(super) fn ours(next: Option<&str>) -> &str {
    next.filter(|next| *next == HOME || next.starts_with("/console/")).unwrap_or(HOME)
}

pub(super) fn see_other(to: &str) -> Response {
    let mut response = StatusCode::SEE_OTHER.into_response();
    if let Ok(to) = HeaderValue::from_str(to) {
        response.headers_mut().insert(header::LOCATION, to);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn forms_of_other_sites_are_refused() {
        let ours = [
            headers(&[("host", "a.example:8470"), ("origin", "https://a.example:8470")]),
            headers(&[("host", "a.example"), ("sec-fetch-site", "same-origin")]),
        ];
        let theirs = [
            headers(&[("host", "a.example"), ("origin", "https://b.example")]),
            headers(&[("host", "a.example"), ("origin", "https://a.example:8443")]),
            headers(&[("host", "a.example"), ("origin", "null")]),
            headers(&[("host", "a.example"), ("sec-fetch-site", "cross-site")]),
            headers(&[("host", "a.example"), ("sec-fetch-site", "same-site")]),
            headers(&[("origin", "https://a.example")]),
        ];
        assert!(ours.iter().all(|headers| check_origin(headers).is_ok()));
        assert!(theirs.iter().all(|headers| check_origin(headers).is_err()));
    }

    #[test]
    fn nobody_is_sent_anywhere_but_to_our_pages() {
        assert_eq!(ours(Some("/console/jobs?all=true")), "/console/jobs?all=true");
        for elsewhere in ["//evil.example", "https://evil.example", "/api", "/consoleevil", "", "/console\\evil"] {
            assert_eq!(ours(Some(elsewhere)), HOME, "{elsewhere}");
        }
    }

    #[test]
    fn a_cookie_is_found_by_its_whole_name() {
        let sent = headers(&[("cookie", "a=1; __Host-enfold_session=x; my_enfold_session=y")]);
        assert_eq!(held(&sent, SESSION).as_deref(), Some("x"));
        assert_eq!(held(&headers(&[("cookie", "my_enfold_session=y")]), SESSION), None);
    }
}
