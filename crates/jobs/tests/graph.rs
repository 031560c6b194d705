//! Properties of a graph's vertices and edges on Apache AGE: sealed in their places while Cypher reads and writes, re-encrypted and
//! enforced. Not here: `rollback`, for the server that runs here takes no COPY, by which plaintext goes back.
#![cfg(feature = "postgres")]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use enfold::{CallContext, Code, Enfold, Form, PayloadType, Place, Whose};
use enfold_jobs::ops::{
    ApplyOptions, Pace, PlanOptions, Reencryption, Selection, Session, Silent, WorkOptions, apply, audit, enforce,
    plan, plan_reencryption, request_reencryption, verify, work,
};
use enfold_testkit::age::Age;
use tokio_postgres::Client;

const GRAPH: &str = "people_graph";
const VERTICES: i64 = 120;

const POLICY: &str = r#"
environment = "development"
[database]
url = "DATABASE"
[catalog]
url = "sqlite:catalog.db"
[rings.main]
id = "r1"
roots = ["local:dev.key"]
scope = "column"
[tables."people_graph.FieldValue".columns.value]
id = "field-value.data"
ring = "main"
property = "encrypted_data"
marks = { sealed = "is_encrypted", version = "key_version" }
[tables."people_graph.SEEN".columns.address]
id = "seen.ip"
ring = "main"
property = "ip"
[jobs]
batch_rows = 20
"#;

struct Graph {
    age: Age,
    cypher: Client,
    _folder: tempfile::TempDir,
    enfold: Enfold,
    session: Session,
}

impl Graph {
    async fn new() -> Self {
        let age = Age::start(GRAPH).await;
        let cypher = age.connect().await;
        let folder = tempfile::tempdir().unwrap();
        let text = POLICY.replace("DATABASE", &format!("{}?sslmode=disable", age.url()));
        std::fs::write(folder.path().join("catalog.db"), "").unwrap();
        let graph = Self::filled(&cypher).await;
        graph.unwrap();
        let (enfold, session) = common::open(&text, folder.path(), &who()).await.unwrap();
        Self { age, cypher, _folder: folder, enfold, session }
    }

    /// Vertices with texts, numbers, lists and maps, and edges.
    async fn filled(cypher: &Client) -> Result<(), tokio_postgres::Error> {
        run(
            cypher,
            &format!(
                "UNWIND range(1, {VERTICES}) AS n CREATE (v:FieldValue {{canonical_key: 'email:' + toString(n), \
                 encrypted_data: 'person' + toString(n) + '@example.org', is_encrypted: false, score: 2.0, tags: ['a', {{b: n}}]}}) RETURN 1"
            ),
        )
        .await?;
        for (n, value) in
            ["7", "2.50", "true", "['a', 1, {b: null}]", "{street: 'Unter den \\'Linden\\'', no: 1}"].iter().enumerate()
        {
            let key = n + 1;
            run(
                cypher,
                &format!(
                    "MATCH (v:FieldValue {{canonical_key: 'email:{key}'}}) SET v.encrypted_data = {value} RETURN 1"
                ),
            )
            .await?;
        }
        run(cypher, "MATCH (v:FieldValue {canonical_key: 'email:6'}) REMOVE v.encrypted_data RETURN 1").await?;
        run(
            cypher,
            "MATCH (a:FieldValue), (b:FieldValue {canonical_key: 'email:1'}) CREATE (a)-[:SEEN {ip: '10.0.0.' + a.canonical_key, count: 1}]->(b) RETURN 1",
        )
        .await
    }

    /// The properties of every vertex or edge of a label, by its id, as they are printed.
    async fn properties(&self, label: &str) -> BTreeMap<String, String> {
        let sql = format!("SELECT id::text, textin(agtype_out(properties)) FROM {GRAPH}.\"{label}\"");
        let rows = self.cypher.query_typed(&sql, &[]).await.unwrap();
        rows.iter().map(|row| (row.get(0), row.get(1))).collect()
    }

    /// What vertices hold in the property that is protected, by their ids, as agtype prints it, and as it is printed when it came
    /// back by the way of jsonb.
    async fn values(&self) -> BTreeMap<String, (String, String)> {
        let value = "textin(agtype_out(agtype_object_field(properties, 'encrypted_data')))";
        let again = format!("textin(agtype_out(agtype_in(textout(({value}::jsonb)::text))))");
        let sql = format!(
            "SELECT id::text, {value}, {again} FROM {GRAPH}.\"FieldValue\"
             WHERE agtype_object_field(properties, 'encrypted_data') IS NOT NULL
               AND agtype_object_field_text(properties, 'canonical_key') <> 'email:100'"
        );
        let rows = self.cypher.query_typed(&sql, &[]).await.unwrap();
        rows.iter().map(|row| (row.get(0), (row.get(1), row.get(2)))).collect()
    }

    /// Every value but the one that is changed all the while.
    async fn opens_as_it_was(&self, before: &BTreeMap<String, (String, String)>) {
        let column = self.enfold.column("people_graph.FieldValue.value").unwrap();
        let now = self.values().await;
        assert_eq!(now.len(), before.len());
        for (id, (stored, _)) in now {
            let opened = column.open(&who(), &Place::none(), Form::Json, stored.as_bytes()).await.unwrap();
            let (printed, again) = &before[&id];
            assert_eq!(printed, again, "agtype takes it back as it was");
            let json = |text: &[u8]| serde_json::from_slice::<serde_json::Value>(text).unwrap();
            assert_eq!(json(&opened.value), json(printed.as_bytes()));
        }
    }

    async fn sealed(&self, label: &str, property: &str) -> i64 {
        let sql = format!(
            "SELECT count(*) FROM {GRAPH}.\"{label}\" WHERE agtype_object_field_text(properties, '{property}') LIKE 'enf1:%'"
        );
        self.cypher.query_typed(&sql, &[]).await.unwrap()[0].get(0)
    }

    /// Vertices that Cypher finds by what stands beside their values.
    async fn marked(&self, sealed: bool, version: u32) -> i64 {
        let sql = format!(
            "SELECT textin(agtype_out(n)) FROM cypher('{GRAPH}', $cypher$ MATCH (v:FieldValue) \
             WHERE v.is_encrypted = {sealed} AND v.key_version = {version} RETURN count(v) $cypher$) AS (n agtype)"
        );
        self.cypher.query_typed(&sql, &[]).await.unwrap()[0].get::<_, String>(0).parse().unwrap()
    }

    /// What `plan` counts of each column: plaintext, envelopes, and vertices or edges without the property.
    async fn planned(&self) -> [(u64, u64, u64); 2] {
        let shown = plan(&self.session, &PlanOptions::default()).await.unwrap();
        let columns = shown.tables.iter().flat_map(|table| &table.columns);
        let counts = columns.map(|c| (c.census.plaintext, c.census.envelopes, c.census.nulls));
        counts.collect::<Vec<_>>().try_into().unwrap()
    }

    async fn apply(&self) -> enfold::Result<()> {
        let shown = plan(&self.session, &PlanOptions::default()).await?;
        assert!(!shown.is_refused(), "{:?}", shown.tables.iter().map(|table| &table.refusals).collect::<Vec<_>>());
        apply(&self.session, &shown, &ApplyOptions::default(), &Silent).await.map(drop)
    }
}

/// A statement of Cypher that gives numbers.
async fn run(cypher: &Client, statement: &str) -> Result<(), tokio_postgres::Error> {
    let sql = format!("SELECT * FROM cypher('{GRAPH}', $cypher$ {statement} $cypher$) AS (n agtype)");
    cypher.batch_execute(&sql).await
}

fn who() -> CallContext {
    CallContext::new("test", "graph")
}

/// Of the data key that a value is under: what an application stores beside it.
async fn version(enfold: &Enfold, stored: &str) -> u32 {
    let envelope = enfold_core::text::decode(stored).expect("an envelope");
    let key = enfold_core::Envelope::parse(&envelope).expect("an envelope").key_id();
    enfold.data_key(key).await.unwrap().expect("it is in the catalog").version
}

/// Reads every vertex by Cypher, and opens what it finds. That a value is sealed, and that it says so, come to light together.
async fn reader(
    graph: &Graph,
    before: BTreeMap<String, (String, String)>,
    stop: Arc<AtomicBool>,
) -> tokio::task::JoinHandle<u64> {
    let (cypher, column) = (graph.age.connect().await, graph.enfold.column("people_graph.FieldValue.value").unwrap());
    tokio::spawn(async move {
        let sql = format!(
            "SELECT textin(agtype_out(i)), textin(agtype_out(d)), textin(agtype_out(e)), textin(agtype_out(k)) FROM cypher('{GRAPH}', $cypher$ \
             MATCH (v:FieldValue) WHERE v.encrypted_data IS NOT NULL RETURN id(v), v.encrypted_data, v.is_encrypted, v.key_version \
             $cypher$) AS (i agtype, d agtype, e agtype, k agtype)"
        );
        let mut read = 0u64;
        while !stop.load(Ordering::Relaxed) {
            for row in cypher.query_typed(&sql, &[]).await.expect("vertices") {
                let (id, stored, marked): (String, String, String) = (row.get(0), row.get(1), row.get(2));
                let opened =
                    column.open(&who(), &Place::none(), Form::Json, stored.as_bytes()).await.expect("it opens");
                assert_eq!(marked == "true", stored.starts_with("\"enf1:"), "vertex {id}");
                assert_eq!(marked == "true", row.get::<_, Option<String>>(3).is_some(), "vertex {id}");
                if let Some((printed, _)) = before.get(&id) {
                    let json = |text: &[u8]| serde_json::from_slice::<serde_json::Value>(text).expect("JSON");
                    assert_eq!(json(&opened.value), json(printed.as_bytes()));
                }
                read += 1;
            }
        }
        read
    })
}

/// An application that writes and reads one vertex by Cypher alone, through Enfold.
async fn application(graph: &Graph, stop: Arc<AtomicBool>) -> tokio::task::JoinHandle<u64> {
    let (cypher, column) = (graph.age.connect().await, graph.enfold.column("people_graph.FieldValue.value").unwrap());
    let enfold = graph.enfold.clone();
    tokio::spawn(async move {
        let mut done = 0u64;
        while !stop.load(Ordering::Relaxed) {
            let value = format!("\"changed {done} times\"");
            let stored = column
                .seal(&who(), &Place::none(), Form::Json, PayloadType::Json, value.as_bytes())
                .await
                .expect("it seals");
            let stored: String = serde_json::from_slice(&stored).expect("a text");
            let marks = match stored.starts_with("enf1:") {
                true => format!("v.is_encrypted = true, v.key_version = {}", version(&enfold, &stored).await),
                false => "v.is_encrypted = false".to_owned(),
            };
            run(
                &cypher,
                &format!(
                    "MERGE (v:FieldValue {{canonical_key: 'email:100'}}) SET v.encrypted_data = '{stored}', {marks} RETURN 1"
                ),
            )
            .await
            .expect("it is written");
            let sql = format!("SELECT textin(agtype_out(agtype_object_field(properties, 'encrypted_data'))) FROM {GRAPH}.\"FieldValue\"
                               WHERE agtype_object_field_text(properties, 'canonical_key') = 'email:100'");
            let found: String = cypher.query_typed(&sql, &[]).await.expect("a vertex")[0].get(0);
            let opened = column.open(&who(), &Place::none(), Form::Json, found.as_bytes()).await.expect("it opens");
            assert_eq!(opened.value[..], *value.as_bytes());
            done += 1;
        }
        done
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn properties_are_sealed_re_encrypted_enforced_and_given_back() {
    let graph = Graph::new().await;
    let before = graph.values().await;
    let whole = graph.properties("FieldValue").await;

    let (edges, values) = (u64::try_from(VERTICES).unwrap(), u64::try_from(VERTICES - 1).unwrap());
    assert_eq!(graph.planned().await, [(values, 0, 1), (edges, 0, 0)]);
    let stop = Arc::new(AtomicBool::new(false));
    let working = application(&graph, Arc::clone(&stop)).await;
    let reading = reader(&graph, before.clone(), Arc::clone(&stop)).await;
    graph.apply().await.unwrap();
    assert_eq!(graph.planned().await, [(0, values, 1), (0, edges, 0)]);
    assert_eq!(graph.marked(true, 1).await, VERTICES - 1);
    assert_eq!(graph.sealed("FieldValue", "encrypted_data").await, VERTICES - 1, "one has none");
    assert_eq!(graph.sealed("SEEN", "ip").await, VERTICES);
    let audited = audit(graph.session.db.as_ref(), &graph.session.policy, &Selection::All, None).await.unwrap();
    assert!(!audited.leaks());

    graph.opens_as_it_was(&before).await;
    // What else a vertex has is as it was.
    let others = "agtype_concat(properties, agtype_build_map('encrypted_data', 0))";
    let sql = format!(
        "SELECT id::text, textin(agtype_out({others})) FROM {GRAPH}.\"FieldValue\" WHERE agtype_object_field_text(properties, 'canonical_key') = 'email:7'"
    );
    let row = &graph.cypher.query_typed(&sql, &[]).await.unwrap()[0];
    let was = &whole[&row.get::<_, String>(0)];
    let was = was.replace("\"person7@example.org\"", "0").replace("\"is_encrypted\": false", "\"is_encrypted\": true");
    assert_eq!(row.get::<_, String>(1).replace("\"key_version\": 1, ", ""), was);

    let operator = graph.enfold.operator().unwrap();
    let rotated = operator.rotate_many("main", Whose::Everybody, &who()).await.unwrap();
    let wanted = Reencryption::default();
    let shown = plan_reencryption(&graph.session, &wanted).await.unwrap();
    let under: u64 = shown.iter().map(|table| table.rows_under_former_keys).sum();
    assert!(under >= u64::try_from(2 * VERTICES - 2).unwrap(), "{under}");
    request_reencryption(&graph.session, &wanted, &shown).await.unwrap();
    let options = WorkOptions { name: "one".into(), version: "1".into(), until_idle: true, only: None };
    let report = work(&graph.session, &options, &Silent).await.unwrap();
    assert!(report.failed.is_empty(), "{:?}", report.failed);
    assert_eq!((graph.marked(true, 1).await, graph.marked(true, 2).await), (0, VERTICES - 1));
    let former: Vec<_> = rotated.iter().filter_map(|key| key.previous_key).collect();
    assert!(enfold_jobs::ops::needs(&graph.session, "main", &former).await.unwrap().is_none());

    let all = verify(&graph.session, &Selection::All, &Pace::default(), &Silent).await.unwrap();
    assert_eq!(all.tables.iter().map(|table| table.failed).sum::<u64>(), 0);
    enforce(&graph.session, &Selection::All, &Pace::default(), &Silent).await.unwrap();
    stop.store(true, Ordering::Relaxed);
    assert!(working.await.unwrap() > 0 && reading.await.unwrap() > 0);
    let plain = "MATCH (v:FieldValue {canonical_key: 'email:8'}) SET v.encrypted_data = 'plain' RETURN 1";
    assert!(run(&graph.cypher, plain).await.is_err(), "the graph took plaintext");
    graph.opens_as_it_was(&before).await;
}

/// JSON has no such number. It stays as it is and is named, and everything else is converted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_that_json_cannot_hold_stays_and_is_named() {
    let graph = Graph::new().await;
    run(&graph.cypher, "MATCH (v:FieldValue {canonical_key: 'email:9'}) SET v.encrypted_data = 1.10::numeric RETURN 1")
        .await
        .unwrap();
    let error = graph.apply().await.err().unwrap();
    assert_eq!(error.code(), Code::RowsFailed, "{error}");
    assert_eq!(graph.sealed("FieldValue", "encrypted_data").await, VERTICES - 2);
    let kept = graph.properties("FieldValue").await;
    assert!(kept.values().any(|properties| properties.contains("\"encrypted_data\": 1.1::numeric")));
    let store = graph.session.db.store();
    let mut errors = Vec::new();
    for job in store.jobs().await.unwrap() {
        errors.extend(store.row_errors(job.id, 10).await.unwrap());
    }
    assert!(!errors.is_empty() && errors.iter().all(|error| error.column == "value"), "{errors:?}");
}
