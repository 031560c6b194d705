//! Evidence for an auditor: made here while people wait or look at something else, and taken away as files.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use askama::Template;
use axum::Extension;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use enfold::evidence::{Outcome, SignedEvidence};
use enfold::{Code, Error, Result};
use enfold_jobs::evidence::{Standard, collect, page as printed, signer};
use enfold_jobs::shown::time;
use jiff::Timestamp;

use super::guard::{Sent, is_part};
use super::view::{Chrome, Html, ago};
use crate::Shared;
use crate::api::{Failure, to_its_end};

const HERE: &str = "/console/evidence";

/// What was made last, by standard. It is in this process alone: whoever wants to keep it takes the files.
#[derive(Default)]
pub(crate) struct Evidence(Mutex<BTreeMap<Standard, Standing>>);

#[derive(Clone)]
enum Standing {
    Making { since_ms: i64, by: String },
    Made(Arc<SignedEvidence>),
    Failed(Error),
}

impl Evidence {
    /// Says that one is being made, unless that is so already.
    fn begin(&self, standard: Standard, by: &str) -> bool {
        let mut known = self.lock();
        let is_free = !matches!(known.get(&standard), Some(Standing::Making { .. }));
        if is_free {
            let since_ms = Timestamp::now().as_millisecond();
            known.insert(standard, Standing::Making { since_ms, by: by.to_owned() });
        }
        is_free
    }

    fn end(&self, standard: Standard, made: Result<SignedEvidence>) {
        let standing = made.map_or_else(Standing::Failed, |made| Standing::Made(Arc::new(made)));
        self.lock().insert(standard, standing);
    }

    fn made(&self, standard: Standard) -> Option<Arc<SignedEvidence>> {
        match self.lock().get(&standard) {
            Some(Standing::Made(made)) => Some(Arc::clone(made)),
            _ => None,
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Standard, Standing>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Template)]
#[template(path = "evidence.html")]
pub(super) struct EvidencePage {
    chrome: Chrome,
    standards: Vec<(&'static str, String)>,
    part: EvidencePart,
}

/// What changes while it is made.
#[derive(Template)]
#[template(path = "evidence_part.html")]
pub(super) struct EvidencePart {
    of: Vec<View>,
}

/// How it stands with a standard.
struct View {
    word: &'static str,
    title: String,
    making: Option<String>,
    failed: Option<String>,
    made: Option<MadeView>,
}

struct MadeView {
    at: String,
    by: String,
    signed_by: String,
    controls: Vec<Row>,
    checks: Vec<Row>,
}

/// A control or a check.
struct Row {
    id: String,
    says: String,
    outcome: &'static str,
    class: &'static str,
    more: String,
}

impl View {
    fn of(standard: Standard, title: String, standing: Standing) -> Self {
        let view = Self { word: standard.word(), title, making: None, failed: None, made: None };
        match standing {
            Standing::Making { since_ms, by } => {
                Self { making: Some(format!("Asked for by {by} {} ago.", ago(since_ms))), ..view }
            }
            Standing::Failed(error) => Self { failed: Some(format!("{error} ({})", error.code().word())), ..view },
            Standing::Made(made) => Self { made: Some(MadeView::of(&made)), ..view },
        }
    }
}

impl MadeView {
    fn of(made: &SignedEvidence) -> Self {
        let at = made.statement.made_at.parse::<Timestamp>().ok();
        Self {
            at: at.and_then(|at| time(at.as_millisecond())).unwrap_or_default(),
            by: made.statement.made_by.clone().unwrap_or_default(),
            signed_by: made.signed_by.clone(),
            controls: made
                .controls
                .iter()
                .map(|control| Row::of(&control.id, &control.title, control.outcome, control.checks.join(", ")))
                .collect(),
            checks: made
                .checks
                .iter()
                .map(|check| {
                    Row::of(&check.id, &check.question, check.outcome, check.reason.clone().unwrap_or_default())
                })
                .collect(),
        }
    }
}

impl Row {
    fn of(id: &str, says: &str, outcome: Outcome, more: String) -> Self {
        let class = match outcome {
            Outcome::Met => "completed",
            Outcome::NotChecked => "pending",
            Outcome::NotMet => "failed",
        };
        Self { id: id.to_owned(), says: says.to_owned(), outcome: outcome.word(), class, more }
    }
}

pub(super) async fn page(
    State(shared): State<Arc<Shared>>,
    Extension(chrome): Extension<Chrome>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let titles: BTreeMap<Standard, String> =
        Standard::ALL.into_iter().map(|standard| Ok((standard, standard.title()?))).collect::<Result<_>>()?;
    let known = shared.evidence.lock().clone();
    let of = known
        .into_iter()
        .map(|(standard, standing)| View::of(standard, titles.get(&standard).cloned().unwrap_or_default(), standing));
    let part = EvidencePart { of: of.collect() };
    if is_part(&headers) {
        return Ok(Html(part).into_response());
    }
    let standards = titles.into_iter().map(|(standard, title)| (standard.word(), title)).collect();
    Ok(Html(EvidencePage { chrome, standards, part }).into_response())
}

/// Begins to look. It reads every row of the policy's tables, so nobody waits for it at a browser.
pub(super) async fn make(sent: Sent) -> Result<Response, Failure> {
    let standard = known(sent.fields.required("standard", "the standard")?)?;
    let text = if sent.shared.evidence.begin(standard, &sent.caller.actor) {
        let context = sent.context(None);
        let shared = Arc::clone(&sent.shared);
        tokio::spawn(async move {
            let looking = Arc::clone(&shared);
            let made = to_its_end(async move {
                let session = looking.session(&context).await?;
                let signer = signer(&looking.enfold).await?;
                collect(&session, &looking.enfold, standard, &context, &*signer).await
            });
            shared.evidence.end(standard, made.await);
        });
        "It is being looked at; the page says when that is done."
    } else {
        "It is being looked at already."
    };
    Ok(sent.done(text, HERE))
}

/// One of the two files that `enfold evidence` writes.
pub(super) async fn file(
    State(shared): State<Arc<Shared>>,
    Path((standard, name)): Path<(String, String)>,
) -> Result<Response, Failure> {
    let made = shared.evidence.made(known(&standard)?).ok_or_else(none)?;
    let (kind, body) = match name.as_str() {
        "evidence.json" => ("application/json", made.to_json()?),
        "evidence.html" => ("text/html; charset=utf-8", printed(&made)),
        _ => return Err(Failure(none())),
    };
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(kind)),
        // A page of its own, which is kept and printed; shown here, its styles would be refused.
        (header::CONTENT_DISPOSITION, HeaderValue::from_static("attachment")),
    ];
    Ok((headers, body).into_response())
}

fn known(word: &str) -> Result<Standard> {
    Standard::parse(word).ok_or_else(|| Error::new(Code::Usage, "there is no such standard here"))
}

fn none() -> Error {
    Error::new(Code::UnknownEndpoint, "there is no such file here").hint("make the evidence first")
}
