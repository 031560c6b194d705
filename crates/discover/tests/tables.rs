//! Whole tables, as a database gives them.

use enfold_discover::{Class, ColumnInput, Finding, TableInput, classify};

fn table(name: &str, columns: Vec<ColumnInput>) -> Vec<Finding> {
    classify(&TableInput { name: name.into(), comment: None, columns })
}

fn classes(findings: &[Finding]) -> Vec<(&str, Class)> {
    findings.iter().map(|f| (f.column.as_str(), f.class)).collect()
}

#[test]
fn a_table_of_customers() {
    let found = table(
        "customers",
        vec![
            ColumnInput { primary_key: true, ..ColumnInput::new("id", "integer").values(["1", "2", "3"]) },
            ColumnInput::new("first_name", "varchar(40)").values(["Ada", "Grace", "Luís"]),
            ColumnInput::new("email", "text").values(["ada@example.com", "grace@example.org", "luis@example.net"]),
            ColumnInput::new("address", "text").values(["1 Main Street", "Theodor-Heuss-Straße 34", "12 Rue X"]),
            ColumnInput::new("city", "text").values(["Paris", "Berlin", "Oslo"]),
            ColumnInput::new("phone", "text").values(["+1 416 363 5723", "+49 30 901820", "+33 1 42 68 53 00"]),
            ColumnInput::new("born", "date").values(["1815-12-10", "1906-12-09"]),
            ColumnInput::new("newsletter", "boolean").values(["t", "f"]),
            ColumnInput::new("created_at", "timestamp").values(["2024-01-01 00:00:00"]),
            ColumnInput::new("email_verified", "boolean").values(["t"]),
        ],
    );
    assert_eq!(
        classes(&found),
        [
            ("first_name", Class::PersonName),
            ("email", Class::Email),
            ("address", Class::Street),
            ("city", Class::Locality),
            ("phone", Class::Phone),
            ("born", Class::BirthDate),
        ]
    );
    assert!(found.iter().filter(|f| f.class != Class::Locality).all(|f| f.confidence >= 75), "{found:?}");
}

#[test]
fn nothing_in_tables_of_music() {
    assert!(
        table("artist", vec![ColumnInput::new("name", "text").values(["AC/DC", "Aerosmith", "Caetano Veloso"])])
            .is_empty()
    );
    let tracks = table(
        "track",
        vec![
            ColumnInput::new("name", "text").values(["Highway to Hell", "Via Con Me 2", "Walk This Way"]),
            ColumnInput::new("composer", "text").values(["Angus Young, Malcolm Young, Brian Johnson", "Steven Tyler"]),
            ColumnInput::new("milliseconds", "integer").values(["343719", "342562", "230619"]),
            ColumnInput::new("bytes", "integer").values(["11170334", "5510424"]),
            ColumnInput::new("unit_price", "numeric(10,2)").values(["0.99", "1.99"]),
        ],
    );
    assert!(tracks.is_empty(), "{tracks:?}");
}

#[test]
fn a_town_is_a_fact_in_a_list_of_towns() {
    assert!(table("towns", vec![ColumnInput::new("city", "text").values(["Paris", "Oslo"])]).is_empty());
}

#[test]
fn values_are_found_under_any_name() {
    let found = table(
        "t",
        vec![
            ColumnInput::new("a", "text").values(["ada@example.com", "grace@example.org"]),
            ColumnInput::new("b", "text").values(["DE89370400440532013000", "GB82WEST12345698765432"]),
            ColumnInput::new("c", "text").values(["192.0.2.1", "2001:db8::1"]),
            ColumnInput::new("d", "text").values(["ghp_16C7e42F292c6912E7710c838347Ae178B4a"]),
            ColumnInput::new("e", "text").values(["plain", "words"]),
        ],
    );
    assert_eq!(
        classes(&found),
        [("a", Class::Email), ("b", Class::Iban), ("c", Class::IpAddress), ("d", Class::Credential)]
    );
}

#[test]
fn paths_inside_documents_are_found_one_by_one() {
    let found = table(
        "orders",
        vec![ColumnInput::new("doc", "jsonb").values([
            r#"{"contact":{"email":"ada@example.com","name":"Ada"},"items":[{"sku":"A-1","gift_note":"for my aunt Grace, call +49 30 901820"}]}"#,
            r#"{"contact":{"email":"grace@example.org"},"items":[{"sku":"B-2"}]}"#,
        ])],
    );
    let paths: Vec<_> = found.iter().map(|f| (f.path.as_deref().unwrap(), f.class)).collect();
    assert!(paths.contains(&("$.contact.email", Class::Email)), "{paths:?}");
    assert!(!paths.iter().any(|(p, _)| p.ends_with("sku")), "{paths:?}");
}

#[test]
fn free_text_is_found_by_what_is_in_it() {
    let found = table(
        "products",
        vec![
            ColumnInput::new("description", "text").values(["A fine chair made of oak", "A table for six people"]),
            ColumnInput::new("extra", "text")
                .values(["please write to ada@example.com about this", "no thanks, really not"]),
        ],
    );
    assert_eq!(classes(&found), [("extra", Class::FreeText)]);
}

#[test]
fn a_claim_that_the_values_contradict_is_nothing() {
    assert!(table("t", vec![ColumnInput::new("email", "text").values(["yes", "no", "yes"])]).is_empty());
}

#[test]
fn an_empty_table_is_judged_by_its_names() {
    let found = table("users", vec![ColumnInput::new("email", "text"), ColumnInput::new("api_key", "text")]);
    assert_eq!(classes(&found), [("email", Class::Email), ("api_key", Class::Credential)]);
}

#[test]
fn findings_carry_counts_and_no_value() {
    let found = table("users", vec![ColumnInput::new("email", "text").values(["very.secret@example.com"])]);
    let printed = serde_json::to_string(&found).unwrap();
    assert!(!printed.contains("secret"), "{printed}");
    assert_eq!((found[0].evidence.sampled, found[0].evidence.matched), (1, 1));
}

#[test]
fn foreign_keys_are_not_values() {
    let column = ColumnInput {
        references: Some("public.users.email".into()),
        ..ColumnInput::new("email", "text").values(["ada@example.com"])
    };
    assert!(table("logins", vec![column]).is_empty());
}
