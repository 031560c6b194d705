//! What an application does all the while, whatever the database: it stores what `index_to_store` gives and looks for all that
//! `lookup` gives, in statements that never change.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use enfold::{Column, Form, PayloadType};
use enfold_testkit::rng::Rng;

use crate::world::{ORGS, PEOPLE, email, first_email, place, who};

/// How many writers there are. Each has the rows whose id is its number, modulo this.
pub(crate) const WRITERS: i64 = 2;

/// One row as it is written.
pub(crate) struct Written<'a> {
    pub(crate) id: i64,
    pub(crate) org: i64,
    pub(crate) email: &'a str,
    pub(crate) index: &'a [u8],
}

/// The application's statements.
#[async_trait]
pub(crate) trait People: Send + Sync {
    /// Whether it was inserted; not where its e-mail is another row's.
    async fn insert(&self, row: &Written<'_>) -> bool;
    async fn update(&self, row: &Written<'_>);
    /// Inserts the row, or changes the one with its id (`ON CONFLICT … DO UPDATE`).
    async fn upsert(&self, row: &Written<'_>);
    /// The rows of a tenant whose index column holds one of these values.
    async fn find(&self, org: i64, wanted: &[Vec<u8>]) -> Vec<i64>;
}

#[derive(Debug, Default)]
pub(crate) struct Done {
    pub(crate) lookups: u64,
    pub(crate) written: u64,
    pub(crate) refused: u64,
    /// The e-mails that are in the table in the end.
    pub(crate) emails: BTreeMap<i64, String>,
}

/// Works as writer `number` until `stop`, with handles of its own process.
pub(crate) async fn work(people: Box<dyn People>, email: Column, number: i64, stop: Arc<AtomicBool>) -> Done {
    let mut random = Rng::new(number.cast_unsigned());
    let mine = (1..=PEOPLE).filter(|id| id % WRITERS == number);
    let mut done = Done { emails: mine.map(|id| (id, first_email(id))).collect(), ..Done::default() };
    let mut next = PEOPLE * 10 + number;
    let mut worn = 0;
    while !stop.load(Ordering::Relaxed) {
        let id = *done.emails.keys().nth(random.index(done.emails.len())).unwrap();
        let known = done.emails[&id].clone();
        worn += 1;
        let fresh = format!("Writer{number}-{worn}@example.org");
        match random.index(6) {
            0 => {
                assert!(write(&*people, &email, next, &fresh, Way::Insert).await, "nobody has {fresh}");
                done.emails.insert(next, fresh);
                next += WRITERS;
                done.written += 1;
            }
            1 | 2 => {
                let way = if random.chance(500) { Way::Update } else { Way::Upsert };
                write(&*people, &email, id, &fresh, way).await;
                assert!(find(&*people, &email, id, &known).await.is_empty(), "{known} is nobody's any more");
                done.emails.insert(id, fresh);
                done.written += 1;
            }
            3 => {
                // Of the same tenant, and the same but for case.
                let another = id + ORGS * 1_000_000;
                let again = known.to_uppercase();
                assert!(!write(&*people, &email, another, &again, Way::Insert).await, "{known} is twice in the table");
                done.refused += 1;
            }
            _ => {
                assert_eq!(find(&*people, &email, id, &known.to_uppercase()).await, [id], "{known} was missed");
                done.lookups += 1;
            }
        }
    }
    done
}

#[derive(Clone, Copy)]
pub(crate) enum Way {
    Insert,
    Update,
    Upsert,
}

pub(crate) async fn write(people: &dyn People, email: &Column, id: i64, value: &str, way: Way) -> bool {
    let org = id.rem_euclid(ORGS);
    let sealed = email.seal(&who(), &place(org), Form::Text, PayloadType::Text, value.as_bytes()).await.unwrap();
    let index = email.index_to_store(&who(), "eq", &place(org), value).await.unwrap();
    let row = Written { id, org, email: std::str::from_utf8(&sealed).unwrap(), index: &index };
    match way {
        Way::Insert => return people.insert(&row).await,
        Way::Update => people.update(&row).await,
        Way::Upsert => people.upsert(&row).await,
    }
    true
}

pub(crate) async fn find(people: &dyn People, email: &Column, id: i64, value: &str) -> Vec<i64> {
    let org = id.rem_euclid(ORGS);
    let wanted = email.lookup(&who(), "eq", &place(org), value).await.unwrap();
    people.find(org, &wanted).await
}

/// Writers, each a process of its own with its own view of the signed state, as long as `meanwhile` takes.
pub(crate) async fn beside<T>(
    world: &crate::world::World,
    connect: impl AsyncFn() -> Box<dyn People>,
    meanwhile: impl Future<Output = T>,
) -> (T, Vec<Done>) {
    let stop = Arc::new(AtomicBool::new(false));
    let mut writers = Vec::new();
    for number in 0..WRITERS {
        let process = world.process(r#"["lower"]"#).await;
        let column = email(&process, &world.owner());
        writers.push(tokio::spawn(work(connect().await, column, number, Arc::clone(&stop))));
    }
    let came = meanwhile.await;
    stop.store(true, Ordering::Relaxed);
    let mut done = Vec::new();
    for writer in writers {
        done.push(writer.await.unwrap());
    }
    (came, done)
}

/// Every e-mail is found, in its row and in no other; and every writer had something to do.
pub(crate) async fn check(people: &dyn People, email: &Column, done: &[Done]) {
    for writer in done {
        assert!(writer.lookups > 0 && writer.written > 0 && writer.refused > 0, "{writer:?}");
        for (id, known) in &writer.emails {
            assert_eq!(find(people, email, *id, known).await, [*id], "{known}");
        }
    }
}
