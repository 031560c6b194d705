//! Looks for many known values in bytes at once, upper and lower case of ASCII taken for equal.

use std::collections::HashMap;

use zeroize::Zeroizing;

/// Known plaintext values. Wiped on drop; does not print.
pub(super) struct Needles {
    /// Every value of at least [`SHORTEST`] bytes, folded, in order.
    whole: Vec<Zeroizing<Vec<u8>>>,
    /// Those that are distinctive enough to be searched for inside other bytes.
    inside: Vec<Zeroizing<Vec<u8>>>,
    /// Positions in `inside` by the first bytes of the value.
    by_start: HashMap<[u8; START], Vec<usize>>,
}

/// Shorter values are in any database by chance.
const SHORTEST: usize = 4;
const START: usize = 4;

/// Values of the alphabet of base64url have to be this long to be searched for inside other bytes: a gigabyte of
/// envelopes then holds one of a hundred such values by chance with a probability of 2^30 * 100 / 38^9 < 0.001 (38:
/// letters without case, digits and two signs). A sign outside that alphabet, such as `@`, never is in an envelope.
const DISTINCTIVE: usize = 9;

impl Needles {
    pub(super) fn new(values: &[Zeroizing<Vec<u8>>]) -> Self {
        let mut whole: Vec<_> = values
            .iter()
            .filter(|value| value.len() >= SHORTEST)
            .map(|value| Zeroizing::new(value.to_ascii_lowercase()))
            .collect();
        whole.sort_unstable_by(|a, b| a.as_slice().cmp(b.as_slice()));
        whole.dedup_by(|a, b| a.as_slice() == b.as_slice());
        let inside: Vec<_> = whole.iter().filter(|value| distinctive(value)).cloned().collect();
        let mut by_start: HashMap<_, Vec<usize>> = HashMap::new();
        for (at, value) in inside.iter().enumerate() {
            if let Some(start) = value.first_chunk::<START>() {
                by_start.entry(*start).or_default().push(at);
            }
        }
        Self { whole, inside, by_start }
    }

    /// Nothing can be searched for inside other bytes.
    pub(super) fn is_empty(&self) -> bool {
        self.inside.is_empty()
    }

    pub(super) fn none(&self) -> bool {
        self.whole.is_empty()
    }

    /// Whether a cell is one of the values, or holds a distinctive one.
    pub(super) fn in_cell(&self, cell: &[u8]) -> bool {
        let folded = Zeroizing::new(cell.to_ascii_lowercase());
        self.whole.binary_search_by(|value| value.as_slice().cmp(folded.as_slice())).is_ok()
            || self.search(&folded).next().is_some()
    }

    /// Where in `bytes` distinctive values begin.
    pub(super) fn places(&self, bytes: &[u8]) -> Vec<usize> {
        let folded = Zeroizing::new(bytes.to_ascii_lowercase());
        self.search(&folded).collect()
    }

    fn search<'a>(&'a self, folded: &'a [u8]) -> impl Iterator<Item = usize> + 'a {
        let starts = folded.windows(START).enumerate();
        starts.filter_map(|(at, window)| {
            let candidates = self.by_start.get(window)?;
            candidates.iter().any(|one| folded[at..].starts_with(&self.inside[*one])).then_some(at)
        })
    }
}

fn distinctive(value: &[u8]) -> bool {
    let base64 = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    value.len() >= DISTINCTIVE || (value.len() > SHORTEST && !value.iter().all(base64))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needles(values: &[&str]) -> Needles {
        Needles::new(&values.iter().map(|v| Zeroizing::new(v.as_bytes().to_vec())).collect::<Vec<_>>())
    }

    #[test]
    fn values_are_found_whatever_their_case_and_wherever_they_are() {
        let n = needles(&["Ada@example.org", "Grace@example.org", "Ada@example.com"]);
        assert_eq!(n.places(b"..ada@example.org,ADA@EXAMPLE.COM ada@example.or"), [2, 18]);
        assert!(n.in_cell(b"write to ada@example.org"));
        assert!(!n.in_cell(b"ada@example"));
    }

    #[test]
    fn short_and_common_values_count_only_as_a_whole() {
        let n = needles(&["Paris", "yes", ""]);
        assert!(n.in_cell(b"paris"));
        assert!(!n.in_cell(b"comparison"));
        assert!(!n.in_cell(b"yes"), "three letters are in any database");
        assert!(n.is_empty() && !n.none());
        assert!(needles(&["yes"]).none());
    }
}
