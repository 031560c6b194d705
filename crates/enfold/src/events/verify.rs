//! Verifying an export of the log: offline, with nothing but the lines and the public keys that are trusted.
//!
//! The lines are read up to three times. The first time finds the checkpoints, the second goes along every writer's chain, and
//! where one breaks the third collects that writer's entries, to say which of them was changed, removed, moved or added.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use serde::Serialize;

use super::chain::{Entry, Hash, WriterId};
use super::checkpoint::{Checkpoint, Head, SignedCheckpoint};
use super::cut::{Beginning, Cut};
use super::event::Event;
use crate::Result;

/// How an export is verified.
#[derive(Clone, Debug, Default)]
pub struct Verifier {
    /// Public keys of the log; without any, checkpoints are not looked at.
    pub trusted: Vec<[u8; 32]>,
    /// Whether the export may lack writers and checkpoints as a whole: what one process wrote to a file of its own.
    pub partial: bool,
    /// Checkpoints that were kept elsewhere.
    pub anchors: Vec<SignedCheckpoint>,
}

/// What an export turned out to be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    pub writers: u64,
    pub entries: u64,
    /// Entries that a checkpoint vouches for.
    pub signed: u64,
    /// Lines of before there were chains: nothing vouches for them.
    pub unchained: u64,
    pub checkpoints: u64,
    /// Milliseconds since 1970: when the last checkpoint was signed.
    pub signed_until_ms: Option<i64>,
    /// The last that was taken out of the log because its time was over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cut: Option<Cut>,
    /// The first thing that is wrong with each chain, and with the checkpoints.
    pub findings: Vec<Finding>,
}

/// What is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    #[serde(flatten)]
    pub what: What,
    pub writer: Option<WriterId>,
    /// The entry's number, or the checkpoint's.
    pub number: Option<u64>,
    /// From 1; none for what is not there.
    pub line: Option<u64>,
}

/// What was done to the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "what")]
pub enum What {
    /// The line is neither an entry nor a checkpoint.
    NotAnEntry,
    /// The entry is not the one that its successor, or a checkpoint, knew.
    Changed,
    /// Entries are missing, from this number to before `until`.
    Removed { until: u64 },
    /// The entry stands where another one belongs.
    Moved { expected: u64 },
    /// A second entry of this number, which its successor did not know.
    Inserted,
    /// The chain ends before this number, which a checkpoint vouches for.
    CutOff { signed: u64 },
    /// The chain holds together and is another one than was signed, somewhere from this number to `signed`.
    Rewritten { signed: u64 },
    /// No key that is trusted signed the checkpoint as it is.
    CheckpointNotSigned,
    /// The checkpoint is missing, though a later one names it.
    CheckpointRemoved,
    /// Two checkpoints of one number, or one that does not follow the one before.
    CheckpointForked,
}

impl Finding {
    /// In a sentence, for people.
    pub fn says(&self) -> String {
        let number = self.number.unwrap_or_default();
        let at = self.line.map(|line| format!(" (line {line})")).unwrap_or_default();
        let of = self.writer.map(|writer| format!(" of writer {writer}")).unwrap_or_default();
        match self.what {
            What::NotAnEntry => format!("line {} is no entry", self.line.unwrap_or_default()),
            What::Changed => format!("entry {number}{of} was changed{at}"),
            What::Removed { until } if until == number + 1 => format!("entry {number}{of} is missing"),
            What::Removed { until } => format!("entries {number} to {}{of} are missing", until - 1),
            What::Moved { expected } => format!("entry {number}{of} stands where entry {expected} belongs{at}"),
            What::Inserted => format!("a second entry {number}{of} was put in{at}"),
            What::CutOff { signed } => {
                format!("entries {number} to {signed}{of} were cut off: a checkpoint vouches for them")
            }
            What::Rewritten { signed } => {
                format!("entries {number} to {signed}{of} are others than were signed, from one of them on")
            }
            What::CheckpointNotSigned => {
                format!("checkpoint {number} is signed by no key that is trusted, or was changed{at}")
            }
            What::CheckpointRemoved => format!("checkpoint {number} is missing"),
            What::CheckpointForked => format!("checkpoint {number} is not the one that the others know{at}"),
        }
    }
}

impl Report {
    /// Whether nothing is wrong with what was there.
    pub fn is_whole(&self) -> bool {
        self.findings.is_empty()
    }
}

/// Heads that a checkpoint vouches for, by writer and number.
type Heads = BTreeMap<WriterId, BTreeMap<u64, Hash>>;

/// A log that can be read as often as it takes.
#[async_trait]
pub trait Lines: Sync {
    /// Hands every line to `take`, each time in the same order.
    async fn each(&self, take: &mut (dyn for<'l> FnMut(&'l str) + Send)) -> Result<()>;
}

#[async_trait]
impl Lines for [String] {
    async fn each(&self, take: &mut (dyn for<'l> FnMut(&'l str) + Send)) -> Result<()> {
        self.iter().for_each(|line| take(line));
        Ok(())
    }
}

impl Verifier {
    /// Reads the log two or three times.
    pub async fn verify(&self, log: &(impl Lines + ?Sized)) -> Result<Report> {
        let mut checkpoints = Checkpoints::new(self);
        log.each(&mut |line| checkpoints.take(line)).await?;
        let mut walk = Walk::new(checkpoints.settle());
        log.each(&mut |line| walk.take(line)).await?;
        let mut collected = Collected::new(walk.broken());
        if !collected.0.is_empty() {
            log.each(&mut |line| collected.take(line)).await?;
        }
        Ok(walk.settle(&collected, self.partial))
    }
}

/// The first reading.
struct Checkpoints<'a> {
    by: &'a Verifier,
    read: u64,
    found: BTreeMap<u64, (Hash, Checkpoint)>,
    report: Report,
}

impl<'a> Checkpoints<'a> {
    fn new(by: &'a Verifier) -> Self {
        let mut new = Self { by, read: 0, found: BTreeMap::new(), report: Report::default() };
        for anchor in &by.anchors {
            new.believe(anchor, None);
        }
        new
    }

    fn take(&mut self, line: &str) {
        self.read += 1;
        if let Some(signed) = as_checkpoint(line) {
            self.report.checkpoints += 1;
            if !self.by.trusted.is_empty() {
                self.believe(&signed, Some(self.read));
            }
        }
    }

    fn believe(&mut self, signed: &SignedCheckpoint, line: Option<u64>) {
        let Some(checkpoint) = signed.verify(&self.by.trusted) else {
            return self.report.find(What::CheckpointNotSigned, None, Some(signed.number), line);
        };
        let hash = signed.hash();
        match self.found.get(&signed.number) {
            Some((known, _)) if *known == hash => {}
            Some(_) => self.report.find(What::CheckpointForked, None, Some(signed.number), line),
            None => _ = self.found.insert(signed.number, (hash, checkpoint)),
        }
    }

    /// Whether they follow each other, and what they vouch for.
    fn settle(mut self) -> (Heads, Beginning, Report) {
        let mut beginning = Beginning::default();
        self.found.values().for_each(|(_, checkpoint)| beginning.take(checkpoint));
        let mut heads = Heads::new();
        for (writer, head) in &beginning.chains {
            heads.entry(*writer).or_default().insert(head.seq, head.hash);
        }
        let mut before: Option<(u64, Hash)> = None;
        for (number, (hash, checkpoint)) in &self.found {
            let expected = before.map_or(1, |(number, _)| number + 1);
            if *number > expected && !beginning.may_lack(number - 1) && !self.by.partial {
                let missing = beginning.checkpoint.map_or(expected, |last| expected.max(last.number + 1));
                self.report.find(What::CheckpointRemoved, None, Some(missing), None);
            }
            let previous = before.map_or(Hash::NONE, |(_, hash)| hash);
            let follows = *number != expected || checkpoint.previous == previous;
            if !follows || !beginning.agrees_with(*number, *hash, checkpoint.previous) {
                self.report.find(What::CheckpointForked, None, Some(*number), None);
            }
            before = Some((*number, *hash));
            self.report.signed_until_ms = Some(checkpoint.at_ms);
            for (writer, head) in &checkpoint.heads {
                heads.entry(*writer).or_default().insert(head.seq, head.hash);
            }
        }
        self.report.cut.clone_from(&beginning.last_cut);
        (heads, beginning, self.report)
    }
}

/// The second reading: along each chain until it breaks.
struct Walk {
    heads: Heads,
    beginning: Beginning,
    report: Report,
    read: u64,
    chains: BTreeMap<WriterId, Chain>,
}

#[derive(Clone, Copy)]
struct Chain {
    /// The number of its first entry, as far as it is there.
    first: u64,
    next: u64,
    head: Hash,
    /// The last number that a checkpoint vouches for.
    signed: u64,
    broken: bool,
}

impl Chain {
    /// Before the entry of number `first`; `begins`: up to where the beginning may be missing.
    fn before(first: u64, previous: Hash, begins: Option<Head>) -> Self {
        let after = |seq, head| Self { first: seq + 1, next: seq + 1, head, signed: seq, broken: false };
        match begins {
            Some(begins) if first > begins.seq => after(begins.seq, begins.hash),
            // In the middle of what is being taken out.
            Some(_) if first > 1 => after(first - 1, previous),
            _ => after(0, Hash::NONE),
        }
    }

    /// How many of its entries a checkpoint vouches for.
    fn vouched_for(&self) -> u64 {
        self.signed + 1 - self.first
    }

    /// Goes on to an entry; false where it is not the next one, or not what was signed.
    fn go_on(&mut self, seq: u64, previous: Hash, hash: Hash, signed: Option<Hash>) -> bool {
        if seq != self.next || previous != self.head || signed.is_some_and(|signed| signed != hash) {
            return false;
        }
        (self.next, self.head) = (seq + 1, hash);
        if signed.is_some() {
            self.signed = seq;
        }
        true
    }
}

impl Walk {
    fn new((heads, beginning, report): (Heads, Beginning, Report)) -> Self {
        Self { heads, beginning, report, read: 0, chains: BTreeMap::new() }
    }

    fn take(&mut self, line: &str) {
        self.read += 1;
        let Ok(entry) = Entry::parse(line) else {
            if as_checkpoint(line).is_none() {
                match Event::from_json(line) {
                    Ok(_) if !line.contains("\"writer\":") => self.report.unchained += 1,
                    _ => self.report.find(What::NotAnEntry, None, None, Some(self.read)),
                }
            }
            return;
        };
        self.report.entries += 1;
        let signed = self.heads.get(&entry.writer).and_then(|heads| heads.get(&entry.seq)).copied();
        let begins = || Chain::before(entry.seq, entry.previous, self.beginning.of(entry.writer));
        let chain = self.chains.entry(entry.writer).or_insert_with(begins);
        if !chain.broken {
            chain.broken = !chain.go_on(entry.seq, entry.previous, entry.hash(), signed);
        }
    }

    fn broken(&self) -> BTreeSet<WriterId> {
        self.chains.iter().filter(|(_, chain)| chain.broken).map(|(writer, _)| *writer).collect()
    }

    fn settle(mut self, collected: &Collected, partial: bool) -> Report {
        self.report.writers = self.chains.len() as u64;
        let none = BTreeMap::new();
        for (writer, chain) in &self.chains {
            self.report.signed += chain.vouched_for();
            let heads = self.heads.get(writer).unwrap_or(&none);
            if let Some(items) = collected.0.get(writer) {
                let (what, number, line) = diagnose(items, heads, self.beginning.of(*writer));
                self.report.find(what, Some(*writer), Some(number), line);
            } else if let Some((signed, _)) = heads.range(chain.next..).last() {
                self.report.find(What::CutOff { signed: *signed }, Some(*writer), Some(chain.next), None);
            }
        }
        for (writer, heads) in &self.heads {
            let from = self.beginning.of(*writer).map_or(1, |last| last.seq + 1);
            let is_missed = |signed: u64| signed >= from && !partial && !self.chains.contains_key(writer);
            if let Some((signed, _)) = heads.last_key_value().filter(|(signed, _)| is_missed(**signed)) {
                self.report.find(What::CutOff { signed: *signed }, Some(*writer), Some(from), None);
            }
        }
        self.report
    }
}

impl Report {
    fn find(&mut self, what: What, writer: Option<WriterId>, number: Option<u64>, line: Option<u64>) {
        self.findings.push(Finding { what, writer, number, line });
    }
}

/// The third reading: the entries of chains that break.
struct Collected(BTreeMap<WriterId, Vec<Item>>, u64);

#[derive(Clone, Copy)]
struct Item {
    line: u64,
    seq: u64,
    previous: Hash,
    hash: Hash,
}

impl Collected {
    fn new(writers: BTreeSet<WriterId>) -> Self {
        Self(writers.into_iter().map(|writer| (writer, Vec::new())).collect(), 0)
    }

    fn take(&mut self, line: &str) {
        self.1 += 1;
        if let Ok(entry) = Entry::parse(line)
            && let Some(items) = self.0.get_mut(&entry.writer)
        {
            let hash = entry.hash();
            items.push(Item { line: self.1, seq: entry.seq, previous: entry.previous, hash });
        }
    }
}

/// What was done to a chain that breaks, to which entry, and where that stands.
fn diagnose(items: &[Item], heads: &BTreeMap<u64, Hash>, begins: Option<Head>) -> (What, u64, Option<u64>) {
    let Some(first) = items.first() else { return (What::NotAnEntry, 1, None) };
    let mut chain = Chain::before(first.seq, first.previous, begins);
    let signed = |seq: u64| heads.get(&seq).copied();
    let breaks = items.iter().position(|item| !chain.go_on(item.seq, item.previous, item.hash, signed(item.seq)));
    let Some(at) = breaks else { return (What::NotAnEntry, chain.next, None) };
    let (here, expected) = (items[at], chain.next);
    let of = |seq: u64| items.iter().filter(move |item| item.seq == seq);
    // Whether some entry names this one as the one before it.
    let is_known = |item: &Item| of(item.seq + 1).any(|next| next.previous == item.hash);
    let said = |what: What, item: &Item| (what, item.seq, Some(item.line));
    if here.seq < expected {
        // Two of one number: whichever its successor did not know was put there.
        let first = of(here.seq).next().unwrap_or(&here);
        return said(What::Inserted, if is_known(&here) && !is_known(first) { first } else { &here });
    }
    if here.seq > expected {
        return match of(expected).next() {
            Some(_) => said(What::Moved { expected }, &here),
            None => (What::Removed { until: here.seq }, expected, Some(here.line)),
        };
    }
    if here.previous == chain.head {
        // It follows, and is not what was signed: so one after the last that was signed is not what it was.
        return match chain.signed + 1 {
            from if from == here.seq => said(What::Changed, &here),
            from => (What::Rewritten { signed: here.seq }, from, None),
        };
    }
    let another_fits = of(here.seq).any(|item| item.previous == chain.head && item.line != here.line);
    match at.checked_sub(1).map(|before| items[before]) {
        _ if another_fits => said(What::Inserted, &here),
        // What its successor knows is as it was, so it is the one before that is not.
        Some(before) if chain.signed < before.seq && (is_known(&here) || of(here.seq + 1).next().is_none()) => {
            said(What::Changed, &before)
        }
        _ => said(What::Changed, &here),
    }
}

fn as_checkpoint(line: &str) -> Option<SignedCheckpoint> {
    // Most lines are entries, and need not be read as anything else.
    line.starts_with("{\"number\":").then(|| SignedCheckpoint::from_line(line)).flatten()
}

#[cfg(test)]
mod tests;
