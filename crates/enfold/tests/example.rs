//! The library's example, run as its readers run it.
#![allow(dead_code, unreachable_pub, reason = "the example has a main of its own")]

#[path = "../examples/customers.rs"]
mod customers;

use customers::Customer;
use enfold::policy::Mode;
use enfold::{CallContext, Code};

#[tokio::test]
async fn an_application_reads_and_writes_through_the_conversion() {
    let dir = tempfile::tempdir().unwrap();
    let rows = customers::run(dir.path()).await.unwrap();
    assert_eq!(rows[0], ("ann@example.com".to_owned(), "customer 1".to_owned()));
    for stored in [&rows[1].0, &rows[1].1] {
        assert!(stored.starts_with("enf1:"), "{stored}");
    }
    let file = std::fs::read(dir.path().join("shop.db")).unwrap();
    let holds = |needle: &[u8]| file.windows(needle.len()).any(|w| w == needle);
    assert!(holds(b"ann@example.com"), "the row from before is still plain");
    assert!(!holds(b"Bob@Example.com") && !holds(b"customer 2"));
    assert!(!holds(b"bob@example.com"), "the index holds no value either");
}

#[tokio::test]
async fn another_shop_reads_nothing_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let (enfold, berlin) = customers::open(dir.path()).await.unwrap();
    let operator = enfold.operator().unwrap();
    operator.set_modes(&[("customers.email", Mode::Kms), ("customers.note", Mode::Kms)]).await.unwrap();
    let context = CallContext::new("shop-web", "test");
    let ann = Customer { id: 1, email: "ann@example.com".into(), note: "hello".into() };
    berlin.add(&context, &ann).await.unwrap();
    assert_eq!(berlin.by_email(&context, "ann@example.com").await.unwrap(), Some(ann));
    let db = rusqlite::Connection::open(dir.path().join("shop.db")).unwrap();
    db.execute("UPDATE customers SET shop = 'paris'", []).unwrap();
    let paris = customers::Customers::new(&enfold, db, "paris").unwrap();
    assert_eq!(paris.by_email(&context, "ann@example.com").await.unwrap(), None);
    let stolen = paris.raw(1).unwrap().0;
    let place = enfold::Place::tenant(enfold::Part::Text("paris"));
    let email = enfold.column("customers.email").unwrap();
    let opened = email.open(&context, &place, enfold::Form::Text, stolen.as_bytes()).await;
    assert_eq!(opened.err().unwrap().code(), Code::OpenFailed);
}
