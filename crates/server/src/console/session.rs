//! Sessions of people at a browser: who they are, what proves that a form is ours, and when they end.
//!
//! They are in this process's memory alone. What a browser holds is 256 random bits, of which only a digest is kept.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use aws_lc_rs::{digest, rand};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use enfold::policy::ConsolePolicy;
use enfold::{Code, Error, Result};
use subtle::ConstantTimeEq;

use crate::identity::Identity;

/// More than an organisation has operators. Who comes when there are as many takes the place of whoever was idle the longest.
const MOST_SESSIONS: usize = 10_000;
/// Sign-ins that were begun and not ended; anybody can begin one.
const MOST_BEGUN: usize = 10_000;
/// How long people may take at their issuer.
const SIGN_IN: Duration = Duration::from_secs(600);
const RANDOM: usize = 32;

pub(crate) struct Sessions {
    idle: Duration,
    longest: Duration,
    open: Mutex<HashMap<[u8; 32], Session>>,
    begun: Mutex<HashMap<String, Begun>>,
}

/// By what somebody is known.
#[derive(Clone)]
pub(super) enum Holder {
    /// An issuer vouched for them when they signed in.
    Person(Arc<Identity>),
    /// They showed the service key of this id, which is looked up at each request: it may have been revoked.
    ServiceKey(String),
}

/// A sign-in on its way to an issuer and back.
pub(super) struct Begun {
    pub(super) nonce: String,
    /// Of PKCE (RFC 7636).
    pub(super) verifier: String,
    /// The page to go to then.
    pub(super) next: String,
    at: Instant,
}

struct Session {
    holder: Holder,
    form_token: String,
    notice: Option<Notice>,
    opened: Instant,
    seen: Instant,
}

/// What a page says once, on top.
#[derive(Clone)]
pub(super) struct Notice {
    /// Whether it is about something that did not work.
    pub(super) is_error: bool,
    pub(super) text: String,
}

/// A session as one request sees it.
#[derive(Clone)]
pub(super) struct SignedIn {
    pub(super) holder: Holder,
    /// What each form of the session's pages carries.
    pub(super) form_token: String,
    pub(super) notice: Option<Notice>,
}

impl Sessions {
    pub(crate) fn new(policy: &ConsolePolicy) -> Self {
        Self { idle: policy.idle, longest: policy.session, open: Mutex::default(), begun: Mutex::default() }
    }

    /// Opens a session, and returns what the browser is to hold.
    pub(super) fn open(&self, holder: Holder) -> Result<String> {
        let (cookie, form_token) = (random()?, random()?);
        let now = Instant::now();
        let mut open = lock(&self.open);
        open.retain(|_, session| self.lasts(session, now));
        if open.len() >= MOST_SESSIONS {
            let idlest = open.iter().min_by_key(|(_, session)| session.seen).map(|(name, _)| *name);
            idlest.and_then(|name| open.remove(&name));
        }
        open.insert(name(&cookie), Session { holder, form_token, notice: None, opened: now, seen: now });
        Ok(cookie)
    }

    /// Whose session it is. With `take_notice`, what is to be said once is told now and forgotten.
    pub(super) fn find(&self, cookie: &str, take_notice: bool) -> Option<SignedIn> {
        let (name, now) = (name(cookie), Instant::now());
        let mut open = lock(&self.open);
        let session = open.get_mut(&name)?;
        if !self.lasts(session, now) {
            open.remove(&name);
            return None;
        }
        session.seen = now;
        let notice = if take_notice { session.notice.take() } else { None };
        Some(SignedIn { holder: session.holder.clone(), form_token: session.form_token.clone(), notice })
    }

    pub(super) fn say(&self, cookie: &str, notice: Notice) {
        if let Some(session) = lock(&self.open).get_mut(&name(cookie)) {
            session.notice = Some(notice);
        }
    }

    pub(super) fn close(&self, cookie: &str) {
        lock(&self.open).remove(&name(cookie));
    }

    /// Begins a sign-in at an issuer, and returns its state, nonce and verifier.
    pub(super) fn begin(&self, next: String) -> Result<(String, String, String)> {
        let (state, nonce, verifier) = (random()?, random()?, random()?);
        let at = Instant::now();
        let mut begun = lock(&self.begun);
        begun.retain(|_, begun| begun.at.elapsed() < SIGN_IN);
        if begun.len() >= MOST_BEGUN {
            return Err(Error::new(Code::Busy, "too many people are signing in").hint("try again in some minutes"));
        }
        begun.insert(state.clone(), Begun { nonce: nonce.clone(), verifier: verifier.clone(), next, at });
        Ok((state, nonce, verifier))
    }

    /// Ends a sign-in: what is known of it is told once.
    pub(super) fn take(&self, state: &str) -> Option<Begun> {
        lock(&self.begun).remove(state).filter(|begun| begun.at.elapsed() < SIGN_IN)
    }

    /// Whether a session is not over at `now`.
    fn lasts(&self, session: &Session, now: Instant) -> bool {
        now.saturating_duration_since(session.seen) < self.idle
            && now.saturating_duration_since(session.opened) < self.longest
    }
}

impl SignedIn {
    pub(super) fn made(&self, form_token: &str) -> bool {
        self.form_token.as_bytes().ct_eq(form_token.as_bytes()).into()
    }
}

/// The challenge of a verifier (RFC 7636, section 4.2, `S256`).
pub(super) fn challenge(verifier: &str) -> String {
    URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, verifier.as_bytes()))
}

pub(super) fn random() -> Result<String> {
    let mut drawn = [0; RANDOM];
    rand::fill(&mut drawn).map_err(|_| Error::new(Code::Internal, "cannot draw random bytes for a session"))?;
    Ok(URL_SAFE_NO_PAD.encode(drawn))
}

fn name(cookie: &str) -> [u8; 32] {
    let mut name = [0; 32];
    name.copy_from_slice(digest::digest(&digest::SHA256, cookie.as_bytes()).as_ref());
    name
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing under these locks panics half-way through a change.
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sessions(idle: Duration, session: Duration) -> Sessions {
        Sessions::new(&ConsolePolicy { sign_in: None, idle, session })
    }

    fn somebody() -> Holder {
        Holder::ServiceKey("0000000000000000".to_owned())
    }

    const LONG: Duration = Duration::from_secs(3_600);

    #[test]
    fn a_session_is_found_by_what_its_browser_holds_until_it_is_closed() {
        let sessions = sessions(LONG, LONG);
        let (one, other) = (sessions.open(somebody()).unwrap(), sessions.open(somebody()).unwrap());
        assert_ne!(one, other);
        let found = sessions.find(&one, true).expect("it is open");
        assert!(found.made(&found.form_token));
        assert!(!found.made(&sessions.find(&other, true).unwrap().form_token), "a form of another session's");
        assert!(!found.made(""));
        sessions.close(&one);
        assert!(sessions.find(&one, true).is_none() && sessions.find(&other, true).is_some());
        assert!(sessions.find("", true).is_none());
    }

    #[test]
    fn a_session_ends_when_nobody_does_anything_and_when_its_time_is_over() {
        for (idle, longest) in [(Duration::ZERO, LONG), (LONG, Duration::ZERO)] {
            let sessions = sessions(idle, longest);
            let cookie = sessions.open(somebody()).unwrap();
            assert!(sessions.find(&cookie, true).is_none());
        }
    }

    #[test]
    fn a_notice_is_said_once_and_on_no_part_of_a_page() {
        let sessions = sessions(LONG, LONG);
        let cookie = sessions.open(somebody()).unwrap();
        sessions.say(&cookie, Notice { is_error: false, text: "done".to_owned() });
        assert!(sessions.find(&cookie, false).unwrap().notice.is_none());
        assert_eq!(sessions.find(&cookie, true).unwrap().notice.unwrap().text, "done");
        assert!(sessions.find(&cookie, true).unwrap().notice.is_none());
    }

    #[test]
    fn a_sign_in_ends_once() {
        let sessions = sessions(LONG, LONG);
        let (state, nonce, verifier) = sessions.begin("/console/keys".to_owned()).unwrap();
        let begun = sessions.take(&state).expect("it was begun");
        assert_eq!((begun.nonce, begun.verifier, begun.next), (nonce, verifier, "/console/keys".to_owned()));
        assert!(sessions.take(&state).is_none());
    }

    #[test]
    fn the_challenge_is_the_one_of_the_rfc() {
        // RFC 7636, appendix B.
        let verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
        assert_eq!(challenge(verifier), "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM");
    }
}
