//! Drives the readers with the vectors and with a hundred thousand changes of them, from a fixed seed.

mod drive;

use std::path::PathBuf;

use serde_json::Value;

const CHANGES: u64 = 100_000;

#[test]
fn no_bytes_break_a_promise_of_the_readers() {
    let seeds = seeds();
    assert!(seeds.len() > 80);
    seeds.iter().for_each(|seed| drive::drive(seed));
    let mut random = Random(0x0005_eed0_f5ee_d5ee);
    let mut parsed = 0;
    for round in 0..CHANGES {
        let changed = change(&seeds, &mut random);
        parsed += usize::from(enfold_core::Envelope::parse(&changed).is_ok());
        let outcome = std::panic::catch_unwind(|| drive::drive(&changed));
        assert!(outcome.is_ok(), "round {round}: {changed:02x?}");
    }
    assert!(parsed > 1000, "too few of the changed envelopes still parse ({parsed}) to say much");
}

fn seeds() -> Vec<Vec<u8>> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../vectors");
    let mut paths: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let mut seeds = Vec::new();
    for path in paths.iter().filter(|path| path.extension().is_some_and(|extension| extension == "json")) {
        let case: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let Some(stored) = case["stored"].as_str() else { continue };
        match case["form"].as_str() {
            Some("binary") => {
                let unhex = |at: usize| u8::from_str_radix(&stored[at..at + 2], 16).unwrap();
                let bytes: Vec<u8> = (0..stored.len()).step_by(2).map(unhex).collect();
                seeds.push(enfold_core::text::encode(&bytes).into_bytes());
                seeds.push(bytes);
            }
            _ => seeds.push(stored.as_bytes().to_vec()),
        }
    }
    seeds
}

/// One to four changes of one seed.
fn change(seeds: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut bytes = seeds[random.below(seeds.len())].clone();
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len().max(1));
        match random.below(6) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
            1 if !bytes.is_empty() => bytes[at] = random.byte(),
            2 => bytes.truncate(at),
            3 => bytes.insert(at.min(bytes.len()), random.byte()),
            4 => {
                let other = &seeds[random.below(seeds.len())];
                let from = random.below(other.len().max(1)).min(other.len());
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
            // The first bytes decide most.
            _ if bytes.len() > 30 => bytes[random.below(30)] = random.byte(),
            _ => bytes.push(random.byte()),
        }
    }
    bytes
}

/// xorshift64: good enough to choose changes, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() >> 16).unwrap() % end
    }

    fn byte(&mut self) -> u8 {
        self.next().to_be_bytes()[2]
    }
}
