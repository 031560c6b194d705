//! What a test has told a fake to do to its calls, and what was called.

use std::collections::VecDeque;

use super::server::{Reply, Request};

/// Of a service with faults `F`.
pub(super) struct Script<F> {
    next: VecDeque<F>,
    /// For ever, until it is lifted.
    always: Option<F>,
    /// Method and path, with the status of the answer.
    calls: Vec<(String, u16)>,
}

impl<F> Default for Script<F> {
    fn default() -> Self {
        Self { next: VecDeque::new(), always: None, calls: Vec::new() }
    }
}

impl<F: Copy> Script<F> {
    /// The next call meets it; told again, the one after it.
    pub(super) fn next(&mut self, fault: F) {
        self.next.push_back(fault);
    }

    /// Every call meets it from now on.
    pub(super) fn always(&mut self, fault: Option<F>) {
        self.always = fault;
    }

    /// What the call meets that came just now.
    pub(super) fn meets(&mut self) -> Option<F> {
        self.next.pop_front().or(self.always)
    }

    pub(super) fn answered(&mut self, request: &Request, reply: &Reply) {
        self.calls.push((format!("{} {}", request.method, request.path), reply.status));
    }

    pub(super) fn calls(&self) -> Vec<(String, u16)> {
        self.calls.clone()
    }
}
