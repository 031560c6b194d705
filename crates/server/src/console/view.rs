//! What pages have in common: the frame around them, and how they are written.

use askama::Template;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use enfold::Error;
use enfold::policy::Environment;

use super::session::{Notice, SignedIn};
use super::{HOME, PAGES};
use crate::Shared;
use crate::api::ErrorBody;
use crate::identity::Caller;

/// What a template makes, as an answer.
pub(super) struct Html<T>(pub(super) T);

impl<T: Template> IntoResponse for Html<T> {
    fn into_response(self) -> Response {
        match self.0.render() {
            Ok(text) => {
                let kind = HeaderValue::from_static("text/html; charset=utf-8");
                ([(header::CONTENT_TYPE, kind)], text).into_response()
            }
            Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        }
    }
}

/// The frame around a page.
#[derive(Clone)]
pub(super) struct Chrome {
    pub(super) environment: &'static str,
    pub(super) is_development: bool,
    pub(super) links: Vec<Link>,
    /// None on pages for everybody.
    pub(super) who: Option<String>,
    pub(super) form_token: String,
    pub(super) notice: Option<Notice>,
}

/// A page in the navigation.
#[derive(Clone)]
pub(super) struct Link {
    pub(super) title: &'static str,
    pub(super) path: &'static str,
    pub(super) is_here: bool,
}

impl Chrome {
    /// For whoever is signed in: what they may see.
    pub(super) fn of(shared: &Shared, caller: &Caller, signed_in: &SignedIn, here: &str) -> Self {
        let may = |needs: &[_]| needs.is_empty() || needs.iter().any(|permission| caller.has(*permission));
        let is_here = |path: &str| {
            here == path || (path != HOME && here.strip_prefix(path).is_some_and(|rest| rest.starts_with('/')))
        };
        let links = PAGES
            .iter()
            .filter(|page| may(page.needs))
            .filter_map(|page| page.title.map(|title| Link { title, path: page.path, is_here: is_here(page.path) }));
        Self {
            links: links.collect(),
            who: Some(caller.actor.clone()),
            form_token: signed_in.form_token.clone(),
            notice: signed_in.notice.clone(),
            ..Self::outside(shared)
        }
    }

    /// For whoever is not.
    pub(super) fn outside(shared: &Shared) -> Self {
        let environment = shared.enfold.policy().environment;
        Self {
            environment: environment.word(),
            is_development: environment == Environment::Development,
            links: Vec::new(),
            who: None,
            form_token: String::new(),
            notice: None,
        }
    }
}

#[derive(Template)]
#[template(path = "sign_in.html")]
pub(super) struct SignInPage {
    pub(super) chrome: Chrome,
    pub(super) issuer: Option<String>,
    /// Whether a service key will do.
    pub(super) with_key: bool,
    pub(super) next: String,
    pub(super) next_encoded: String,
}

#[derive(Template)]
#[template(path = "error.html")]
pub(super) struct ErrorPage {
    chrome: Chrome,
    error: ErrorBody,
}

pub(super) fn error_page(chrome: Chrome, error: &Error) -> Html<ErrorPage> {
    Html(ErrorPage { chrome, error: ErrorBody::of(error) })
}

/// How long ago that was, in one unit.
pub(super) fn ago(ms: i64) -> String {
    let seconds = (jiff::Timestamp::now().as_millisecond() - ms).max(0) / 1_000;
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min", seconds / 60),
        3_600..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}
