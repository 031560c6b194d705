use crate::{Fixture, blind, policy};

#[tokio::test]
async fn a_plan_goes_stale_with_what_it_relied_on_and_not_with_what_apply_does() {
    let f = Fixture::new(
        "CREATE TABLE t (id int PRIMARY KEY, a varchar(80), b text, c int); CREATE INDEX t_a ON t (a);
         CREATE FUNCTION fold() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
    )
    .await;
    let mut p = policy("t", &["a"]);
    p.columns.get_mut("a").unwrap().indexes.insert("eq".into(), blind("a"));
    let mut last = f.facts(&p).await.fingerprint;
    assert_eq!(last.len(), 64);

    for own in [
        "INSERT INTO t VALUES (1, 'x', 'y', 3); ANALYZE t",
        "ALTER TABLE t ADD COLUMN a_index bytea",
        "CREATE UNIQUE INDEX enfold_t_a_index ON t (a_index)",
        "ALTER TABLE t ALTER COLUMN a TYPE text",
        "DROP INDEX t_a",
        "ALTER TABLE t ADD CONSTRAINT enfold_form_a CHECK (a LIKE 'enf1:%') NOT VALID",
        "CREATE TRIGGER enfold_guard BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION fold()",
    ] {
        f.sql(own).await;
        assert_eq!(f.facts(&p).await.fingerprint, last, "{own}");
    }
    for change in [
        "ALTER TABLE t ADD COLUMN d text",
        "ALTER TABLE t ALTER COLUMN c TYPE bigint",
        "ALTER TABLE t ALTER COLUMN b SET NOT NULL",
        "ALTER TABLE t ALTER COLUMN b SET DEFAULT 'x'",
        "CREATE TRIGGER fold_a BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION fold()",
        "CREATE OR REPLACE FUNCTION fold() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.a := 1; RETURN NEW; END'",
        "ALTER TABLE t DISABLE TRIGGER fold_a",
        "ALTER TABLE t ADD CHECK (c > 0)",
        "CREATE INDEX t_c ON t (c)",
        "CREATE UNIQUE INDEX t_a_folded ON t (lower(a))",
        "ALTER TABLE t REPLICA IDENTITY FULL",
        "ALTER TABLE t ENABLE ROW LEVEL SECURITY",
        "CREATE POLICY mine ON t USING (b = current_user)",
        "CREATE RULE also AS ON UPDATE TO t DO ALSO SELECT 1",
        "ALTER TABLE t DROP CONSTRAINT t_pkey",
    ] {
        f.sql(change).await;
        let now = f.facts(&p).await.fingerprint;
        assert_ne!(now, last, "{change}");
        last = now;
    }
    p.tenant = Some("b".into());
    assert_ne!(f.facts(&p).await.fingerprint, last, "bound to something else");
}
