//! The chain that a writer's events form.
//!
//! A process that writes events draws an id for itself, numbers its entries from 1, and puts into each the hash of the one before.
//! What is hashed is `enfold/v1 log entry`, a zero byte, and the entry's line as it is stored, with SHA-256. So the hash of
//! one entry stands for it and for all before it, and where it is signed ([`super::Checkpoint`]) none of them can be changed, taken out
//! or moved without being noticed.

use std::fmt;

use aws_lc_rs::digest::{Context, SHA256};
use aws_lc_rs::rand;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Event;
use crate::forkmark::ForkMark;
use crate::hex::{from_hex, hex};
use crate::{Code, Error, Result};

const ENTRY: &[u8] = b"enfold/v1 log entry\0";

/// SHA-256 of an entry's line, or of a checkpoint's document, each behind a domain of its own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hash([u8; 32]);

impl Hash {
    /// What stands before the first of a chain.
    pub const NONE: Self = Self([0; 32]);

    pub(super) fn of(domain: &[u8], text: &str) -> Self {
        let mut context = Context::new(&SHA256);
        context.update(domain);
        context.update(text.as_bytes());
        let mut hash = [0; 32];
        hash.copy_from_slice(context.finish().as_ref());
        Self(hash)
    }
}

/// A process that writes events: 16 random bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WriterId([u8; 16]);

impl WriterId {
    pub fn random() -> Result<Self> {
        let mut id = [0; 16];
        rand::fill(&mut id)
            .map_err(|_| Error::new(Code::Internal, "cannot draw random bytes for a writer of events"))?;
        Ok(Self(id))
    }

    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

macro_rules! spelled_in_hex {
    ($type:ident, $len:literal, $what:literal) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex(&self.0))
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                let bytes = from_hex(&text).and_then(|bytes| <[u8; $len]>::try_from(bytes).ok());
                // One spelling: two lines must not mean the same entry.
                bytes.map(Self).filter(|read| read.to_string() == text).ok_or_else(|| D::Error::custom($what))
            }
        }
    };
}

spelled_in_hex!(Hash, 32, "no hash of 32 bytes in small hex digits");
spelled_in_hex!(WriterId, 16, "no writer's id of 16 bytes in small hex digits");

/// An event at its place in a chain, and the line as which it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub writer: WriterId,
    /// From 1.
    pub seq: u64,
    /// The hash of the writer's entry before.
    pub previous: Hash,
    pub event: Event,
    line: String,
}

#[derive(Serialize)]
struct Written<'a> {
    writer: WriterId,
    seq: u64,
    prev: Hash,
    #[serde(flatten)]
    event: &'a Event,
}

#[derive(Deserialize)]
struct Read {
    writer: WriterId,
    seq: u64,
    prev: Hash,
    #[serde(flatten)]
    event: Event,
}

impl Entry {
    fn new(writer: WriterId, seq: u64, previous: Hash, event: Event) -> Result<Self> {
        let written = Written { writer, seq, prev: previous, event: &event };
        let line = serde_json::to_string(&written).map_err(|_| Error::new(Code::Internal, "cannot encode an event"))?;
        Ok(Self { writer, seq, previous, event, line })
    }

    /// Reads a line as it was stored.
    ///
    /// # Errors
    /// `LogTampered` if it is none.
    pub fn parse(line: &str) -> Result<Self> {
        let Read { writer, seq, prev, event } = serde_json::from_str(line)
            .map_err(|_| Error::new(Code::LogTampered, "the log holds a line that is not one of its entries"))?;
        Ok(Self { writer, seq, previous: prev, event, line: line.to_owned() })
    }

    /// What is stored, without a line break.
    pub fn line(&self) -> &str {
        &self.line
    }

    pub fn hash(&self) -> Hash {
        Hash::of(ENTRY, &self.line)
    }
}

/// The end of this process's chain, to which entries are added.
pub(super) struct Chain {
    writer: WriterId,
    next: u64,
    head: Hash,
    /// A copy of the process must not go on with it: there would be two entries of one number.
    mark: ForkMark,
}

impl Chain {
    pub(super) fn begin() -> Result<Self> {
        Ok(Self { writer: WriterId::random()?, next: 1, head: Hash::NONE, mark: ForkMark::new() })
    }

    pub(super) fn is_ours(&self) -> bool {
        self.mark.is_ours()
    }

    pub(super) fn add(&mut self, event: Event) -> Result<Entry> {
        let entry = Entry::new(self.writer, self.next, self.head, event)?;
        (self.next, self.head) = (self.next + 1, entry.hash());
        Ok(entry)
    }
}

/// Entries of one chain, as a process would write them: for tests.
#[cfg(test)]
pub(crate) fn chained(events: impl IntoIterator<Item = Event>) -> Vec<Entry> {
    let mut chain = Chain::begin().unwrap();
    events.into_iter().map(|event| chain.add(event).unwrap()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::{CallContext, EventKind};

    #[test]
    fn each_entry_names_the_hash_of_the_one_before() {
        let entries = chained((1..=3).map(|n| Event::new(EventKind::Seal, n)));
        assert_eq!(entries[0].previous, Hash::NONE);
        for pair in entries.windows(2) {
            assert_eq!((pair[1].writer, pair[1].seq), (pair[0].writer, pair[0].seq + 1));
            assert_eq!(pair[1].previous, pair[0].hash());
        }
    }

    #[test]
    fn an_entry_reads_back_from_its_line_and_no_word_of_a_caller_makes_a_second_one() {
        let context = CallContext::new("ann\n{\"seq\":7}", "\",\"seq\":9,\"x\":\"");
        let entry = chained([Event::new(EventKind::Open, 1).context(&context)]).remove(0);
        assert!(!entry.line().contains('\n'));
        assert_eq!(Entry::parse(entry.line()).unwrap(), entry);
        assert_eq!(Event::from_json(entry.line()).unwrap(), entry.event);
    }

    #[test]
    fn a_line_with_anything_else_in_it_is_none() {
        let line = chained([Event::new(EventKind::Open, 1)])[0].line().to_owned();
        for (from, to) in
            [("\"seq\":1", "\"seq\":-1"), ("\"prev\":\"00", "\"prev\":\""), ("\"kind\":\"open\"", "\"kind\":\"x\"")]
        {
            let changed = line.replace(from, to);
            assert_ne!(changed, line);
            assert_eq!(Entry::parse(&changed).unwrap_err().code(), Code::LogTampered, "{changed}");
        }
    }
}
