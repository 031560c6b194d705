//! Requests that their callers named: what stands in the catalog of them.

use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256};

/// A request that changes something, under the name that its caller gave it. Neither the name nor what it asked for is kept, but
/// their hashes: a tenant may stand in it. The name is in both, so nobody who has not the name can try out what was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NamedRequest {
    /// Of the caller and the name.
    pub id: [u8; 32],
    /// Of what is asked for.
    pub content: [u8; 32],
}

/// How long a request is held by whoever does it, and how long it is known at all, from its beginning on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holding {
    pub held: Duration,
    pub kept: Duration,
}

/// What a named request finds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Begun {
    /// Nobody is at it, and it has no answer: it is to be done, and is held for that. Whoever was at it before and left it
    /// undone, or died, may have said what it was about to do.
    ToDo { intent: Option<String> },
    /// Somebody is at it, and holds it for so long yet.
    Running(Duration),
    /// It was done, and this was its answer.
    Answered(String),
    /// Something else was asked for under this name.
    Another,
}

impl NamedRequest {
    pub fn new(caller: &str, name: &str, content: &[&[u8]]) -> Self {
        let id = hash(b"enfold/v1 request name\0", &[caller.as_bytes(), name.as_bytes()]);
        let content = hash(b"enfold/v1 request\0", &[&[name.as_bytes()], content].concat());
        Self { id, content }
    }
}

/// Each part with its length before it, so that no two lists of parts are one text.
fn hash(domain: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    context.update(domain);
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    let mut out = [0; 32];
    out.copy_from_slice(context.finish().as_ref());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_told_by_its_caller_its_name_and_all_that_it_asks_for() {
        let request = NamedRequest::new("a", "n", &[b"POST", b"/x", b"{}"]);
        assert_eq!(request, NamedRequest::new("a", "n", &[b"POST", b"/x", b"{}"]));
        assert_ne!(request.id, NamedRequest::new("b", "n", &[b"POST", b"/x", b"{}"]).id);
        assert_ne!(request.id, NamedRequest::new("an", "", &[b"POST", b"/x", b"{}"]).id);
        let moved = NamedRequest::new("a", "n", &[b"POST", b"/", b"x{}"]);
        assert!(moved.id == request.id && moved.content != request.content);
        assert_ne!(
            request.content,
            NamedRequest::new("a", "m", &[b"POST", b"/x", b"{}"]).content,
            "no hash of it alone"
        );
    }
}
