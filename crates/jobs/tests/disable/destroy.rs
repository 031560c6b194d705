//! Crypto-shredding of a tenant and of a ring, on both databases: announced, taken back, done, certified.

use std::time::Duration;

use enfold::certificate::SignedCertificate;
use enfold::state::Subject;
use enfold::{Code, Enfold, Form, Part, PayloadType, Place, Whose};
use enfold_jobs::ops::{destroy, keep_schedule};

use crate::world::{World, context, on_tenants};

on_tenants! {
    what_was_announced_opens_nothing_and_can_be_taken_back
    a_tenant_is_destroyed_and_nobody_else
    a_ring_is_destroyed_by_the_schedule_when_its_time_has_come
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn email(world: &World) -> &'static str {
    if world.text.contains("public.users") { "public.users.email" } else { "users.email" }
}

async fn opened(enfold: &Enfold, world: &World, row: i64, org: i64) -> Result<(), Code> {
    let stored = world.text(&format!("SELECT email FROM users WHERE id = {row}")).await;
    let column = enfold.column(email(world)).unwrap();
    let place = Place::tenant(Part::Int(org));
    column.open(&context(), &place, Form::Text, stored.as_bytes()).await.map(|_| ()).map_err(|error| error.code())
}

async fn sealed(enfold: &Enfold, world: &World, org: i64) -> Result<(), Code> {
    let (column, place) = (enfold.column(email(world)).unwrap(), Place::tenant(Part::Int(org)));
    let sealed = column.seal(&context(), &place, Form::Text, PayloadType::Text, b"new").await;
    sealed.map(|_| ()).map_err(|error| error.code())
}

async fn wraps(world: &World, subject: &Subject) -> usize {
    let mut wraps = 0;
    for key in world.enfold.data_keys_of("main", subject).await.unwrap() {
        wraps += world.enfold.data_key(key.id.parse().unwrap()).await.unwrap().unwrap().wraps.len();
    }
    wraps
}

async fn what_was_announced_opens_nothing_and_can_be_taken_back(world: World) {
    // Another process, which has the keys in its cache.
    let (other, _session) = world.another(&world.text).await;
    opened(&other, &world, 1, 1).await.unwrap();
    let operator = world.enfold.operator().unwrap();
    let one = world.enfold.subject("main", Some(Part::Int(1))).await.unwrap();
    let nobody = world.enfold.subject("main", Some(Part::Int(99))).await.unwrap();
    let refused = operator.destroy("main", &nobody, DAY, None, &context()).await.unwrap_err();
    assert_eq!(refused.code(), Code::KeyNotFound);

    let announced = operator.destroy("main", &one, DAY * 30, Some(DAY * 90), &context()).await.unwrap();
    assert_eq!(announced.due_ms - announced.asked_ms, 30 * 24 * 60 * 60 * 1_000);
    assert_eq!(opened(&world.enfold, &world, 1, 1).await, Err(Code::KeyDisabled));
    assert_eq!(sealed(&world.enfold, &world, 1).await, Err(Code::KeyDisabled));
    while opened(&other, &world, 1, 1).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(opened(&other, &world, 1, 1).await, Err(Code::KeyDisabled));
    opened(&other, &world, 2, 2).await.unwrap();
    let again = operator.destroy("main", &one, DAY, None, &context()).await.unwrap();
    assert_eq!(again, announced, "the first announcement stays");
    let early = operator.finish_destruction("main", &one, &context()).await.unwrap_err();
    assert_eq!(early.code(), Code::Usage);
    assert!(wraps(&world, &one).await > 0);
    // Rotation and re-encryption leave it alone.
    let rotated = operator.rotate_many("main", Whose::Everybody, &context()).await.unwrap();
    assert_eq!(rotated.len(), 1);
    world.reencrypt().await;
    assert!(world.enfold.check_catalog().await.unwrap().is_empty());

    operator.cancel_destruction("main", &one, &context()).await.unwrap();
    // A refusal is remembered for a second.
    while opened(&world.enfold, &world, 1, 1).await.is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    sealed(&world.enfold, &world, 1).await.unwrap();
    let nothing = operator.cancel_destruction("main", &one, &context()).await.unwrap_err();
    assert_eq!(nothing.code(), Code::Usage);
}

async fn a_tenant_is_destroyed_and_nobody_else(world: World) {
    let operator = world.enfold.operator().unwrap();
    let one = world.enfold.subject("main", Some(Part::Int(1))).await.unwrap();
    operator.destroy("main", &one, Duration::ZERO, Some(DAY * 90), &context()).await.unwrap();
    let signed = destroy::finish(&world.session, "main", &one, &context()).await.unwrap();
    let certificate = &signed.certificate;
    let purposes: Vec<&str> = certificate.keys.iter().map(|key| key.purpose.as_str()).collect();
    assert_eq!(purposes.iter().filter(|purpose| **purpose == "seal").count(), 1);
    assert_eq!(purposes.iter().filter(|purpose| **purpose == "index").count(), 1, "its index key goes with it");
    assert_eq!(certificate.columns.len(), 1);
    assert_eq!((certificate.columns[0].column.as_str(), certificate.columns[0].rows), (email(&world), 2));
    assert_eq!(certificate.cross_tenant_indexes, [format!("{}.login", email(&world))]);
    assert_eq!(certificate.backups.kept_days, Some(90));
    let moment = |text: &str| text.parse::<jiff::Timestamp>().unwrap().as_millisecond();
    let from = moment(certificate.backups.none_from.as_deref().unwrap());
    assert_eq!(from - moment(&certificate.wraps_gone_at), 90 * 24 * 60 * 60 * 1_000);
    assert_eq!(certificate.requested_by.as_deref(), Some("test"));

    assert_eq!(wraps(&world, &one).await, 0);
    assert_eq!(opened(&world.enfold, &world, 1, 1).await, Err(Code::KeyDestroyed));
    assert_eq!(sealed(&world.enfold, &world, 1).await, Err(Code::KeyDestroyed));
    opened(&world.enfold, &world, 2, 2).await.unwrap();
    sealed(&world.enfold, &world, 2).await.unwrap();
    let cancelled = operator.cancel_destruction("main", &one, &context()).await.unwrap_err();
    assert_eq!(cancelled.code(), Code::KeyDestroyed);
    // A wrap is not made again by whoever looks for those that are missing.
    world.enfold.repair_wraps("main").await.unwrap();
    assert_eq!(wraps(&world, &one).await, 0);
    assert!(world.enfold.check_catalog().await.unwrap().is_empty());
    // A process that starts now finds it so.
    let (other, _session) = world.another(&world.text).await;
    assert_eq!(opened(&other, &world, 1, 1).await, Err(Code::KeyDestroyed));

    let again = destroy::finish(&world.session, "main", &one, &context()).await.unwrap();
    assert_eq!(again, signed, "there is one certificate");
    let (json, trusted) = (signed.to_json().unwrap(), operator.public_key());
    assert_eq!(SignedCertificate::verify(json.as_bytes(), &trusted).unwrap(), signed);
    for (from, to) in
        [("\"rows\": 2", "\"rows\": 3"), ("\"seal\"", "\"index\""), ("\"kept_days\": 90", "\"kept_days\": 9")]
    {
        let changed = json.replacen(from, to, 1);
        assert_ne!(changed, json);
        let refused = SignedCertificate::verify(changed.as_bytes(), &trusted).unwrap_err();
        assert_eq!(refused.code(), Code::StateTampered, "{from}");
    }
    assert!(SignedCertificate::verify(json.as_bytes(), &[7; 32]).is_err(), "another operators' key");
}

async fn a_ring_is_destroyed_by_the_schedule_when_its_time_has_come(world: World) {
    let operator = world.enfold.operator().unwrap();
    let ring = world.enfold.subject("main", None).await.unwrap();
    let announced = operator.destroy("main", &ring, DAY, None, &context()).await.unwrap();
    keep_schedule(&world.session, announced.due_ms - 1, false).await.unwrap();
    assert!(operator.certificate("main", &ring).await.unwrap().is_none());
    operator.cancel_destruction("main", &ring, &context()).await.unwrap();
    let announced = operator.destroy("main", &ring, Duration::ZERO, None, &context()).await.unwrap();
    keep_schedule(&world.session, announced.due_ms, false).await.unwrap();
    let signed = operator.certificate("main", &ring).await.unwrap().expect("a certificate");
    assert_eq!(signed.certificate.finished_by.as_deref(), Some("schedule"));
    assert_eq!(signed.certificate.columns[0].rows, 3);
    assert_eq!(signed.certificate.backups.none_from, None, "nobody said how long backups are kept");
    assert_eq!(wraps(&world, &ring).await, 0);
    for (row, org) in [(1, 1), (2, 2)] {
        assert_eq!(opened(&world.enfold, &world, row, org).await, Err(Code::KeyDestroyed));
    }
    // What authenticates rows stays, so that a process that starts knows what it may not do.
    let (other, _session) = world.another(&world.text).await;
    assert_eq!(opened(&other, &world, 1, 1).await, Err(Code::KeyDestroyed));
}
