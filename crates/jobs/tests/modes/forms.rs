//! Every form of a cell: bytes, documents of JSON and members of them go to the old format and come back, beside a column that has
//! none.

use enfold::Column;
use enfold_core::readers::Foreign;
use tokio_postgres::Client;

use super::*;

const TABLE: &str = "CREATE TABLE forms (id int PRIMARY KEY, bytes bytea, document jsonb, profile jsonb, plain text)";

const COLUMNS: &str = r#"
[tables."public.forms".columns.bytes]
id = "f.bytes"
ring = "main"
reads = ["raw"]
writes = "raw"
[tables."public.forms".columns.document]
id = "f.document"
ring = "main"
reads = ["object"]
writes = "object"
[tables."public.forms".columns.email]
id = "f.email"
ring = "main"
within = "profile"
path = "$.contact.email"
marks = { sealed = "is_encrypted", version = "key_version" }
reads = ["tokens"]
writes = "tokens"
[tables."public.forms".columns.plain]
id = "f.plain"
ring = "main"
[readers.raw]
format = "aes-256-gcm"
key_encoding = "base64"
encoding = "raw"
key_files = ["old.key"]
[readers.object]
format = "aes-256-gcm"
key_encoding = "base64"
fields = { iv = "iv", ciphertext = "content", tag = "authTag" }
key_files = ["old.key"]
[readers.tokens]
format = "fernet"
key_files = ["old.key"]
"#;

/// A cell: its column, its form, where it is, and how it is written.
const CELLS: [(&str, Form, &str, &str); 4] = [
    ("bytes", Form::Bytes, "bytes", "bytes = $1"),
    ("document", Form::Json, "convert_to(document::text, 'UTF8')", "document = convert_from($1, 'UTF8')::jsonb"),
    (
        "email",
        Form::Json,
        "convert_to((profile #> '{contact,email}')::text, 'UTF8')",
        "profile = jsonb_set(profile, '{contact,email}', convert_from($1, 'UTF8')::jsonb)",
    ),
    ("plain", Form::Text, "convert_to(plain, 'UTF8')", "plain = convert_from($1, 'UTF8')"),
];

const VALUES: [[&[u8]; 4]; 3] = [
    [b"\x00\xff\x01", b"{\"a\": [1, 2.50], \"iv\": null}", b"\"ann@example.com\"", b"ann"],
    [b"", b"\"text\"", b"null", b""],
    [b"enf1:", b"[]", b"{\"home\": true}", b"gAAAAA"],
];

async fn stored(app: &Client, id: i32, at: &str) -> Vec<u8> {
    app.query_one(&format!("SELECT {at} FROM forms WHERE id = $1"), &[&id]).await.unwrap().get(0)
}

/// Every cell as the application finds it.
async fn everything_opens(app: &Client, columns: &[Column]) {
    for (id, values) in (0..).zip(&VALUES) {
        for (((name, form, at, _), column), value) in CELLS.iter().zip(columns).zip(values) {
            let opened = column.open(&who(), &Place::none(), *form, &stored(app, id, at).await).await;
            assert_eq!(&opened.unwrap().value[..], *value, "{name} of row {id}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_documents_and_members_go_to_the_old_format_and_come_back() {
    let world = World::new(Server::Postgres(Box::new(Database::create().await)), FERNET).await;
    let Server::Postgres(database) = &world.server else { unreachable!() };
    let app = database.connect().await;
    app.batch_execute(TABLE).await.unwrap();
    let enfold = world.open(&format!("{WRITES}\n{COLUMNS}")).await.unwrap();
    let columns = CELLS.map(|(name, ..)| enfold.column(&format!("public.forms.{name}")).unwrap());
    // Written through Enfold, in mode legacy.
    for (id, values) in (0..).zip(VALUES) {
        let profile =
            "INSERT INTO forms (id, profile) VALUES ($1, '{\"n\": 1, \"contact\": {\"fax\": 7, \"email\": \"\"}}')";
        app.execute(profile, &[&id]).await.unwrap();
        for (((_, form, _, set), column), value) in CELLS.iter().zip(&columns).zip(values) {
            let cell = column.seal(&who(), &Place::none(), *form, PayloadType::Bytes, value).await.unwrap();
            app.execute(&format!("UPDATE forms SET {set} WHERE id = $2"), &[&cell, &id]).await.unwrap();
        }
    }
    everything_opens(&app, &columns).await;
    in_the_old_format(&app, &enfold).await;

    let db = enfold_jobs::connect(&enfold.policy().database, None).await.unwrap();
    let session = Session::over(enfold.clone(), db, &who()).unwrap();
    protect(&session).await.unwrap();
    assert!(verify(&session, &Selection::All, &Pace::default(), &Silent).await.unwrap().is_clean());
    everything_opens(&app, &columns).await;
    let report = rollback(&session, &Selection::All, &Pace::default(), &Silent).await.unwrap();
    let forms = report.tables.iter().find(|table| table.table == "public.forms").unwrap();
    assert_eq!(forms.formats.keys().collect::<Vec<_>>(), ["bytes", "document", "email"]);
    assert!(forms.readers.values().all(|found| found.plaintext == 0 && found.looked_at() == 3), "{forms:?}");
    everything_opens(&app, &columns).await;
    in_the_old_format(&app, &enfold).await;
    // No envelope is there, whatever else it is.
    let unmarked = "profile #> '{contact,is_encrypted}' = 'false' AND profile #> '{contact,key_version}' = 'null'";
    let sql = format!("SELECT count(*) FROM forms WHERE {unmarked}");
    assert_eq!(app.query_one(&sql, &[]).await.unwrap().get::<_, i64>(0), 3);
}

/// As its own code finds it: bytes as they are, an object as the document, a token as the member, the rest of each document as
/// it was, and plaintext where there is no reader.
async fn in_the_old_format(app: &Client, enfold: &Enfold) {
    for (id, values) in (0..).zip(VALUES) {
        for ((name, form, at, _), value) in CELLS.iter().zip(values).take(3) {
            let policy = enfold.policy().column(&format!("public.forms.{name}")).unwrap().1;
            let format = &enfold.policy().readers[policy.writes.as_ref().unwrap()].format;
            let reader = format.with_keys(&[KEY.as_bytes().to_vec().into()]).unwrap();
            let cell = stored(app, id, at).await;
            assert_eq!(&reader.open(&Foreign::new(*form, &cell, &[])).unwrap()[..], value, "{name} of row {id}");
        }
    }
    let count = async |condition: &str| -> i64 {
        app.query_one(&format!("SELECT count(*) FROM forms WHERE {condition}"), &[]).await.unwrap().get(0)
    };
    assert_eq!(count("document ?& ARRAY['iv', 'content', 'authTag']").await, 3);
    assert_eq!(count("profile #>> '{contact,email}' LIKE 'gAAAAA%' AND profile #> '{contact,fax}' = '7'").await, 3);
    assert_eq!(count("plain IN ('ann', '', 'gAAAAA')").await, 3);
}
