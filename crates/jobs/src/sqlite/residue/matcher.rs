//! Searching bytes for many values at once.

use std::collections::HashMap;

use zeroize::{Zeroize, Zeroizing};

/// Shorter values are compared whole only: a few bytes occur in any file by chance.
const SHORTEST: usize = 6;
/// A longer value is looked for by pieces of its start, middle and end: its bytes may lie on several pages.
const PIECE: usize = 32;
const HEAD: usize = SHORTEST;

pub(super) struct Matcher {
    columns: Vec<String>,
    /// Pieces and the column each is of.
    pieces: HashMap<Vec<u8>, usize>,
    /// The lengths of the pieces that begin so: many values share their first bytes (telephone numbers do), few
    /// lengths there are.
    heads: HashMap<[u8; HEAD], Vec<usize>>,
    /// Which hashes of first bytes occur at all: nearly every place is ruled out by one look.
    filter: Vec<bool>,
    /// Short values by length and bytes.
    short: HashMap<(usize, [u8; SHORTEST]), usize>,
}

impl Matcher {
    pub(super) fn new(probes: &[(String, Zeroizing<Vec<u8>>)]) -> Self {
        let mut matcher = Self {
            columns: Vec::new(),
            pieces: HashMap::new(),
            heads: HashMap::new(),
            filter: vec![false; 1 << 16],
            short: HashMap::new(),
        };
        for (column, value) in probes.iter().filter(|(_, value)| !value.is_empty()) {
            let known = matcher.columns.iter().position(|c| c == column);
            let of = known.unwrap_or_else(|| {
                matcher.columns.push(column.clone());
                matcher.columns.len() - 1
            });
            matcher.add(value, of);
        }
        matcher
    }

    pub(super) fn is_empty(&self) -> bool {
        self.columns.is_empty()
    }

    fn add(&mut self, value: &[u8], of: usize) {
        let len = value.len();
        if len < SHORTEST {
            self.short.insert(short_key(value), of);
        } else if len <= 2 * PIECE {
            self.piece(value, of);
        } else {
            for from in [0, len / 2 - PIECE / 2, len - PIECE] {
                self.piece(&value[from..from + PIECE], of);
            }
        }
    }

    fn piece(&mut self, piece: &[u8], of: usize) {
        let Some(head) = piece.first_chunk::<HEAD>() else { return };
        let lengths = self.heads.entry(*head).or_default();
        if !lengths.contains(&piece.len()) {
            lengths.push(piece.len());
        }
        self.filter[hash(head)] = true;
        self.pieces.entry(piece.to_vec()).or_insert(of);
    }

    /// Calls `hit` with the place, the length and the column of each piece found.
    pub(super) fn search<'a>(&'a self, bytes: &[u8], mut hit: impl FnMut(usize, usize, &'a str)) {
        // An index, not an iterator over windows: this loop sees every byte of a file, in debug builds too.
        let mut at = 0;
        while at + HEAD <= bytes.len() {
            let here = at;
            at += 1;
            if !self.filter[hash(&bytes[here..])] {
                continue;
            }
            let Some(head) = bytes[here..].first_chunk::<HEAD>() else { continue };
            for len in self.heads.get(head).into_iter().flatten() {
                let piece = bytes.get(here..here + len);
                if let Some(of) = piece.and_then(|piece| self.pieces.get(piece)) {
                    hit(here, *len, &self.columns[*of]);
                }
            }
        }
    }

    /// The columns whose values are this one or stand in it, each once.
    pub(super) fn in_value(&self, value: &[u8]) -> Vec<&str> {
        let mut of: Vec<&str> = Vec::new();
        if value.len() < SHORTEST {
            of.extend(self.short.get(&short_key(value)).map(|i| self.columns[*i].as_str()));
        }
        self.search(value, |_, _, column| {
            if !of.contains(&column) {
                of.push(column);
            }
        });
        of
    }

    /// The longest piece: how far two blocks of a file must overlap.
    pub(super) fn overlap(&self) -> usize {
        self.heads.values().flatten().copied().max().unwrap_or(0)
    }
}

impl Drop for Matcher {
    /// The pieces are plaintext.
    fn drop(&mut self) {
        for (mut piece, _) in self.pieces.drain() {
            piece.zeroize();
        }
    }
}

/// A value shorter than [`SHORTEST`], filled up.
fn short_key(value: &[u8]) -> (usize, [u8; SHORTEST]) {
    let mut key = [0; SHORTEST];
    key[..value.len()].copy_from_slice(value);
    (value.len(), key)
}

/// 16 bits of the first four bytes (Fibonacci hashing).
fn hash(head: &[u8]) -> usize {
    let word = u32::from_le_bytes([head[0], head[1], head[2], head[3]]);
    (word.wrapping_mul(0x9e37_79b1) >> 16) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matcher(values: &[&str]) -> Matcher {
        let probes: Vec<_> = values.iter().map(|v| ("c".to_owned(), Zeroizing::new(v.as_bytes().to_vec()))).collect();
        Matcher::new(&probes)
    }

    #[test]
    fn values_are_found_wherever_they_stand_and_short_ones_only_whole() {
        let m = matcher(&["ada@example.com", "ada@example.org", "42"]);
        let mut places = Vec::new();
        m.search(b"xxada@example.orgada@example.com42", |at, _, _| places.push(at));
        assert_eq!(places, [2, 17]);
        assert_eq!(m.in_value(b"42"), ["c"]);
        assert!(m.in_value(b"421").is_empty() && m.in_value(b"ada@example.co").is_empty());
    }

    #[test]
    fn a_long_value_is_found_by_any_of_its_pieces() {
        let long: String = (0..500).map(|i| char::from(b'a' + u8::try_from(i * i % 26).unwrap())).collect();
        let m = matcher(&[&long]);
        for part in [&long[..40], &long[230..280], &long[460..]] {
            assert_eq!(m.in_value(part.as_bytes()), ["c"], "{part}");
        }
        assert!(m.overlap() <= PIECE);
    }
}
