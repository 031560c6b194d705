//! What is left of a data key in the memory of the process once the cache has let it go: nothing, as far as every
//! writable page of it can be read.

mod common;

use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use common::{POLICY, World, open, seal, set_mode};
use enfold::kms::{KeyManagementService, KeyMaterial, KeyUri, MemoryKms, UnwrapRequest, WrapRequest, WrappedKey};
use enfold::policy::Mode;
use enfold::{Enfold, Part, Place, Result};
use zeroize::Zeroize;

const ACME: Place<'static> = Place::tenant(Part::Text("acme"));
/// What every byte of a key that is remembered here is changed by, so that remembering it leaves no copy.
const MASK: u8 = 0x5c;

/// A key service that remembers every data key that passes through it, masked.
struct Witness {
    inner: Arc<MemoryKms>,
    seen: Mutex<Vec<[u8; 32]>>,
}

impl Witness {
    fn remember(&self, key: &KeyMaterial) {
        let mut masked = [MASK; 32];
        masked.iter_mut().zip(key.expose()).for_each(|(masked, byte)| *masked ^= byte);
        self.seen.lock().unwrap().push(masked);
    }
}

#[async_trait]
impl KeyManagementService for Witness {
    fn uri(&self) -> &KeyUri {
        self.inner.uri()
    }

    async fn wrap(&self, requests: &[WrapRequest<'_>]) -> Vec<Result<WrappedKey>> {
        requests.iter().for_each(|request| self.remember(request.key));
        self.inner.wrap(requests).await
    }

    async fn unwrap(&self, requests: &[UnwrapRequest<'_>]) -> Vec<Result<KeyMaterial>> {
        let keys = self.inner.unwrap(requests).await;
        keys.iter().flatten().for_each(|key| self.remember(key));
        keys
    }
}

async fn process(world: &World, witness: &Arc<Witness>) -> Enfold {
    let builder = Enfold::builder(world.policy(POLICY)).catalog(Arc::clone(&world.catalog));
    let builder = builder.provider(Arc::clone(witness) as _).clock(Arc::clone(&world.clock) as _);
    builder.without_watch().prepare().build().await.unwrap()
}

/// How often any of the masked keys stands, in the clear, in a writable page of this process.
fn copies(masked: &[[u8; 32]]) -> usize {
    let memory = std::fs::File::open("/proc/self/mem").unwrap();
    let maps = BufReader::new(std::fs::File::open("/proc/self/maps").unwrap());
    let regions: Vec<(u64, u64)> = maps.lines().filter_map(|line| writable(&line.unwrap())).collect();
    let mut page = vec![0_u8; 1 << 20];
    let own = page.as_ptr() as u64..page.as_ptr() as u64 + page.len() as u64;
    let mut found = 0;
    for (from, to) in regions {
        let mut at = from;
        while at + 32 <= to {
            let wanted = usize::try_from(to - at).unwrap().min(page.len());
            // A region may have gone since the list was read, or end in a guard page.
            let Ok(read) = memory.read_at(&mut page[..wanted], at) else { break };
            found += (0..read.saturating_sub(31))
                .filter(|i| !own.contains(&(at + *i as u64)))
                .filter(|i| masked.iter().any(|key| key.iter().zip(&page[*i..]).all(|(key, byte)| key ^ MASK == *byte)))
                .count();
            // What was read is a copy of its own.
            page.as_mut_slice().zeroize();
            if read < wanted || at + read as u64 >= to {
                break;
            }
            // A key may lie across two reads.
            at += read as u64 - 31;
        }
    }
    found
}

fn writable(line: &str) -> Option<(u64, u64)> {
    let (range, rest) = line.split_once(' ')?;
    let (from, to) = range.split_once('-')?;
    let hex = |text| u64::from_str_radix(text, 16).ok();
    rest.starts_with("rw").then_some((hex(from)?, hex(to)?))
}

#[tokio::test]
async fn no_copy_of_a_data_key_is_left_when_the_cache_has_let_it_go() {
    let world = World::new();
    let witness = Arc::new(Witness { inner: Arc::clone(&world.kms), seen: Mutex::default() });
    let first = process(&world, &witness).await;
    set_mode(&first, "users.email", Mode::Kms).await;
    let stored = seal(&first.column("users.email").unwrap(), ACME, "ann").await.unwrap();
    drop(first);
    // Another process finds the key in the catalog and opens with it.
    let second = process(&world, &witness).await;
    let email = second.column("users.email").unwrap();
    // The second time by what the column remembers of the first.
    for _ in 0..2 {
        assert_eq!(open(&email, ACME, &stored).await.unwrap(), "ann");
        seal(&email, ACME, "bob").await.unwrap();
    }
    let held = copies(&witness.seen.lock().unwrap());
    assert!(held > 0, "the search finds the key that the cache holds");

    second.forget_keys();
    let left = copies(&witness.seen.lock().unwrap());
    assert_eq!(left, 0, "of {held} while it was held");
}
