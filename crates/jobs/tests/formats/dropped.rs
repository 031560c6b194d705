//! A reader leaves the policy of a column in mode `hybrid` when none of its values is left, and not before.

use std::sync::Mutex;

use enfold_jobs::ops::{Observer, drop_reader, plan_drop_reader};
use tokio::sync::oneshot;

use crate::postgres::{Fixture, READS, read_all};
use crate::*;

/// Says when something is waited for.
struct Waits(Mutex<Option<oneshot::Sender<()>>>);

impl Observer for Waits {
    fn waiting(&self, _: &str) {
        if let Some(says) = self.0.lock().unwrap().take() {
            says.send(()).unwrap();
        }
    }
}

async fn convert(session: &Session) {
    let shown = plan(session, &PlanOptions::default()).await.unwrap();
    apply(session, &shown, &ApplyOptions::default(), &Silent).await.unwrap();
}

fn causes(error: &enfold::Error) -> String {
    error.causes().collect::<Vec<_>>().join("; ")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_is_dropped_at_a_count_of_zero_that_sees_what_was_still_open() {
    let fixture = Fixture::new().await;
    let (_, tokens) = vectors("fernet");
    let enfold = fixture.open(READS).await.unwrap();
    let session = session(&enfold).await;

    // Nothing is signed of a column that nobody has converted, and yet its values are counted.
    let refused = plan_drop_reader(&session, "fernet").await.unwrap_err();
    assert_eq!(refused.code(), Code::ReaderNeeded);
    assert_eq!(causes(&refused), "`public.users.email`, in mode legacy: 200 values");

    convert(&session).await;
    assert_eq!(plan_drop_reader(&session, "fernet").await.unwrap()[0].values, 0);

    // An old application has written a token and not committed it when the command starts.
    let write = "UPDATE users SET email = $1, email_is = $2 WHERE id = 7";
    let mut late = fixture.database.connect().await;
    let open = late.transaction().await.unwrap();
    open.execute(write, &[&tokens[1].0, &tokens[1].1]).await.unwrap();
    let (says, waiting) = oneshot::channel();
    let dropping = session.clone();
    let dropped = tokio::spawn(async move { drop_reader(&dropping, "fernet", &Waits(Mutex::new(Some(says)))).await });
    waiting.await.unwrap();
    open.commit().await.unwrap();
    let refused = dropped.await.unwrap().unwrap_err();
    assert_eq!(causes(&refused), "`public.users.email`, in mode hybrid: 1 value");
    let without = ["reads = [\"armor\"]", READS[1]];
    assert_eq!(fixture.open(without).await.err().unwrap().code(), Code::ReaderMissing);

    convert(&session).await;
    let uses = drop_reader(&session, "fernet", &Silent).await.unwrap();
    assert_eq!(uses.iter().map(|found| found.column.as_str()).collect::<Vec<_>>(), ["public.users.email"]);
    // Its key is gone, and one process has the reader still.
    std::fs::remove_file(fixture.folder.path().join("fernet.key")).unwrap();
    for reads in [READS, without] {
        assert_eq!(read_all(&fixture.app, &fixture.open(reads).await.unwrap()).await, 400);
    }
    // The other reader of the column is signed as before.
    assert_eq!(fixture.open(["", READS[1]]).await.err().unwrap().code(), Code::ReaderMissing);
    let health = enfold.reader_health().await.unwrap();
    let needed = health.iter().map(|found| (found.reader.as_str(), found.needed_by));
    assert_eq!(needed.collect::<Vec<_>>(), [("armor", 1), ("cloak", 0), ("fernet", 0), ("message", 1)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_is_not_dropped_where_its_values_cannot_be_counted() {
    let fixture = Fixture::new().await;
    let enfold = fixture.open(READS).await.unwrap();
    convert(&session(&enfold).await).await;
    let other = READERS.to_owned() + "[tables.\"public.users\".columns.other]\nid = \"u.other\"\nring = \"main\"\n";
    let elsewhere = policy(fixture.folder.path(), &fixture.database.url(), "\"public.users\"", READS, &other);
    let mut elsewhere = elsewhere;
    elsewhere.tables.get_mut("public.users").unwrap().columns.remove("email");
    let session = session(&Enfold::open(elsewhere).await.unwrap()).await;
    let refused = drop_reader(&session, "fernet", &Silent).await.unwrap_err();
    assert_eq!(refused.code(), Code::ReaderNeeded);
    assert!(causes(&refused).ends_with("does not name: public.users.email"), "{}", causes(&refused));
    let unknown = drop_reader(&session, "fernte", &Silent).await.unwrap_err();
    assert_eq!(unknown.code(), Code::Usage);
}
