use enfold::policy::TriggerChoice;
use enfold::{Code, Companion};
use enfold_core::index::Normaliser;
use enfold_jobs::database::{Counts, Database as _};

use crate::{Fixture, at, blind, policy, refuses, silent, warns, words};

#[tokio::test]
async fn uniqueness_must_pass_to_a_blind_index_that_calls_the_same_values_equal() {
    let f = Fixture::new(
        "CREATE TABLE t (id int PRIMARY KEY, org int NOT NULL, email text UNIQUE, login text, code text, UNIQUE (org, code));
         CREATE UNIQUE INDEX t_login ON t (lower(login))",
    )
    .await;
    let mut p = policy("t", &["email", "login", "code"]);
    p.tenant = Some("org".into());
    let facts = f.facts(&p).await;
    let refused: Vec<_> = facts.refusals.iter().map(|f| (f.word.as_str(), f.column.as_deref().unwrap())).collect();
    let word = "unique-without-blind-index";
    assert_eq!(refused, [(word, "email"), (word, "login"), (word, "code")]);

    for column in ["email", "login", "code"] {
        p.columns.get_mut(column).unwrap().indexes.insert("eq".into(), blind(column));
    }
    let facts = f.facts(&p).await;
    let says = |c: &str| facts.refusals.iter().find(|f| f.column.as_deref() == Some(c)).map(|f| f.says.clone());
    assert!(says("email").unwrap().contains("cross_tenant"), "unique for each tenant is less than unique");
    assert!(says("login").unwrap().contains("lower"), "case-blind uniqueness needs a case-blind index");
    assert_eq!(says("code"), None);

    p.columns.get_mut("email").unwrap().indexes.get_mut("eq").unwrap().cross_tenant = true;
    let login = p.columns.get_mut("login").unwrap().indexes.get_mut("eq").unwrap();
    (login.cross_tenant, login.normalise) = (true, vec![Normaliser::Lower]);
    assert_eq!(f.facts(&p).await.refusals, []);
}

#[tokio::test]
async fn a_unique_index_over_a_generated_column_counts_as_one_over_its_source() {
    let f = Fixture::new(
        "CREATE TABLE t (id int PRIMARY KEY, email text, folded text GENERATED ALWAYS AS (lower(email)) STORED UNIQUE)",
    )
    .await;
    let facts = f.facts(&policy("t", &["email"])).await;
    assert_eq!(refuses(&facts, "unique-without-blind-index").column.as_deref(), Some("email"));
    warns(&facts, "generated-recomputed");
}

#[tokio::test]
async fn foreign_keys_on_either_side_are_refused() {
    let f = Fixture::new(
        "CREATE TABLE parent (id int PRIMARY KEY, email text UNIQUE);
         CREATE TABLE child (id int PRIMARY KEY, email text REFERENCES parent (email) ON UPDATE CASCADE)",
    )
    .await;
    let facts = f.facts(&policy("parent", &["email"])).await;
    assert!(refuses(&facts, "referenced-key").says.contains("public.child"));
    let facts = f.facts(&policy("child", &["email"])).await;
    let out = refuses(&facts, "foreign-key").way_out.clone().unwrap();
    f.sql(out.split(';').next().unwrap()).await;
    silent(&f.facts(&policy("child", &["email"])).await, "foreign-key");
    silent(&f.facts(&policy("parent", &["email"])).await, "referenced-key");
}

#[tokio::test]
async fn a_check_is_tried_with_envelopes_instead_of_being_read() {
    let f = Fixture::new(
        "CREATE TABLE t (id int PRIMARY KEY, a text CHECK (a ~ '@'), b text CHECK (b <> ''), c text CHECK (length(c) <= 5000),
                         d jsonb CHECK (jsonb_typeof(d) = 'object'), e text, f text, CHECK (e <> f), g text CHECK (g::int > 3),
                         i text CHECK (octet_length(i) > 10));
         INSERT INTO t VALUES (1, 'a@b', 'b', 'c', '{}', 'e', 'f', '4', 'long enough for it')",
    )
    .await;
    let facts = f.facts(&policy("t", &["a", "b", "c", "d", "e", "f", "g", "i"])).await;
    let columns = |word: &str| -> Vec<String> {
        facts
            .refusals
            .iter()
            .chain(&facts.warnings)
            .filter(|f| f.word == word)
            .filter_map(|f| f.column.clone())
            .collect()
    };
    assert_eq!(columns("check-constraint"), ["a", "c", "d", "g"]);
    assert_eq!(columns("check-blind"), ["b", "e", "i"]);
    f.sql(refuses(&facts, "check-constraint").way_out.as_ref().unwrap()).await;
    silent(&f.facts(&policy("t", &["a"])).await, "check-constraint");
}

#[tokio::test]
async fn a_plaintext_default_is_refused_and_a_null_one_is_not() {
    let f = Fixture::new(
        "CREATE TABLE t (id int PRIMARY KEY, a text DEFAULT 'none', b text DEFAULT NULL, c varchar DEFAULT NULL)",
    )
    .await;
    let facts = f.facts(&policy("t", &["a", "b", "c"])).await;
    assert_eq!(facts.refusals.len(), 1);
    f.sql(refuses(&facts, "plaintext-default").way_out.as_ref().unwrap()).await;
    assert_eq!(f.facts(&policy("t", &["a", "b", "c"])).await.refusals, []);
}

#[tokio::test]
async fn a_generated_column_that_cannot_follow_is_refused() {
    let f = Fixture::new(
        "CREATE TABLE t (id int PRIMARY KEY, a text, a_number int GENERATED ALWAYS AS (a::int) STORED,
                         b varchar(50), b_length int GENERATED ALWAYS AS (length(b)) STORED);
         INSERT INTO t (id, a, b) VALUES (1, '7', 'b')",
    )
    .await;
    let facts = f.facts(&policy("t", &["a"])).await;
    assert!(refuses(&facts, "generated-column").says.contains("cannot be computed"));
    let facts = f.facts(&policy("t", &["b"])).await;
    assert!(refuses(&facts, "generated-column").says.contains("cannot change its type"));
    f.sql(refuses(&facts, "generated-column").way_out.as_ref().unwrap()).await;
    assert_eq!(f.facts(&policy("t", &["b"])).await.refusals, []);
}

#[tokio::test]
async fn exclusion_partition_and_primary_keys_are_refused() {
    let f = Fixture::new(
        "CREATE TABLE x (id int PRIMARY KEY, a text, EXCLUDE USING hash (a WITH =));
         CREATE TABLE p (id int, a text, b text) PARTITION BY LIST (a);
         CREATE TABLE e (id int, a text, b text) PARTITION BY LIST (lower(a))",
    )
    .await;
    refuses(&f.facts(&policy("x", &["a"])).await, "exclusion-constraint");
    for table in ["p", "e"] {
        assert_eq!(refuses(&f.facts(&policy(table, &["a", "b"])).await, "partition-key").column.as_deref(), Some("a"));
        silent(&f.facts(&policy(table, &["b"])).await, "partition-key");
    }
}

#[tokio::test]
async fn inheritance_views_and_foreign_partitions_are_refused() {
    let f = Fixture::new(
        "CREATE TABLE a (id int PRIMARY KEY, x text);
         CREATE TABLE b () INHERITS (a);
         CREATE TABLE t (id int PRIMARY KEY, x text);
         CREATE VIEW v AS SELECT * FROM t;
         CREATE TABLE p (id int, x text) PARTITION BY RANGE (id);
         CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10);
         CREATE FOREIGN DATA WRAPPER nothing; CREATE SERVER s FOREIGN DATA WRAPPER nothing;
         CREATE FOREIGN TABLE p2 PARTITION OF p FOR VALUES FROM (10) TO (20) SERVER s",
    )
    .await;
    refuses(&f.facts(&policy("a", &["x"])).await, "inheritance");
    refuses(&f.facts(&policy("b", &["x"])).await, "inheritance");
    refuses(&f.facts(&policy("v", &["x"])).await, "not-a-table");
    // Nothing behind the server answers, and no row of it is asked for.
    refuses(&f.facts(&policy("p", &["x"])).await, "foreign-partition");
}

#[tokio::test]
async fn a_partitioned_table_is_told_with_its_parts() {
    let f = Fixture::new(
        "CREATE TABLE p (id int PRIMARY KEY, x text) PARTITION BY RANGE (id);
         CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10);
         CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (10) TO (20);
         INSERT INTO p SELECT n, 'x' FROM generate_series(0, 19) n; ANALYZE p",
    )
    .await;
    let facts = f.facts(&policy("p", &["x"])).await;
    assert!(warns(&facts, "partitioned").says.contains("2 partitions"));
    let partitions: Vec<&str> = facts.partitions.iter().map(|leaf| leaf.table.as_str()).collect();
    assert_eq!(partitions, ["p1", "p2"]);
    assert_eq!((facts.rows, facts.refusals.len()), (20, 0));
    silent(&facts, "inheritance");
}

#[tokio::test]
async fn row_triggers_that_fire_in_a_conversion_wait_for_the_policys_word() {
    let f = Fixture::new(
        "CREATE TABLE t (id int PRIMARY KEY, a text, b text); CREATE TABLE history (a text);
         CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO history VALUES (OLD.a); RETURN NEW; END';
         CREATE FUNCTION fold() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.a := lower(NEW.a); RETURN NEW; END';
         CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
         CREATE TRIGGER keep_history AFTER UPDATE ON t FOR EACH ROW EXECUTE FUNCTION keep();
         CREATE TRIGGER fold_a BEFORE INSERT OR UPDATE OF a ON t FOR EACH ROW EXECUTE FUNCTION fold();
         CREATE TRIGGER only_b BEFORE UPDATE OF b ON t FOR EACH ROW EXECUTE FUNCTION fold();
         CREATE TRIGGER on_insert BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION fold();
         CREATE TRIGGER is_off BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION fold();
         ALTER TABLE t DISABLE TRIGGER is_off;
         CREATE TRIGGER batch AFTER UPDATE ON t FOR EACH STATEMENT EXECUTE FUNCTION nothing();
         CREATE TRIGGER sees_old AFTER UPDATE ON t REFERENCING OLD TABLE AS before FOR EACH STATEMENT EXECUTE FUNCTION nothing();
         CREATE TRIGGER enfold_guard BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION fold()",
    )
    .await;
    let mut p = policy("t", &["a"]);
    let facts = f.facts(&p).await;
    assert_eq!(facts.row_triggers, ["fold_a", "keep_history", "sees_old"]);
    let refused: Vec<_> = facts.refusals.iter().map(|f| f.word.as_str()).collect();
    assert_eq!(refused, ["row-trigger", "row-trigger", "statement-trigger"]);
    assert!(facts.refusals[0].says.contains("before each converted row"));
    assert!(facts.refusals[1].says.contains("writes into a table"));
    assert!(warns(&facts, "statement-trigger").says.contains("`batch`"));

    for name in ["fold_a", "keep_history", "sees_old"] {
        p.triggers.insert(name.into(), TriggerChoice::Fire);
    }
    let facts = f.facts(&p).await;
    assert_eq!((facts.refusals.len(), facts.row_triggers.len()), (0, 3), "said and done: a warning stays");
    warns(&facts, "row-trigger");
}

#[tokio::test]
async fn a_trigger_of_one_partition_is_found() {
    let f = Fixture::new(
        "CREATE TABLE p (id int PRIMARY KEY, x text) PARTITION BY RANGE (id);
         CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10);
         CREATE FUNCTION fold() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.x := lower(NEW.x); RETURN NEW; END';
         CREATE TRIGGER all_parts AFTER UPDATE ON p FOR EACH ROW EXECUTE FUNCTION fold();
         CREATE TRIGGER one_part BEFORE UPDATE ON p1 FOR EACH ROW EXECUTE FUNCTION fold()",
    )
    .await;
    assert_eq!(f.facts(&policy("p", &["x"])).await.row_triggers, ["all_parts", "one_part"]);
}

#[tokio::test]
async fn row_level_security_that_would_hide_rows_is_refused() {
    let f = Fixture::new(
        "CREATE TABLE t (id int PRIMARY KEY, org text, a text); ALTER TABLE t ENABLE ROW LEVEL SECURITY;
         CREATE POLICY mine ON t USING (org = current_user); CREATE POLICY by_a ON t FOR SELECT USING (a = current_user)",
    )
    .await;
    let facts = f.facts(&policy("t", &["a"])).await;
    warns(&facts, "row-security");
    assert!(refuses(&facts, "row-security-reads").says.contains("by_a"));
    silent(&facts, "row-security-hides");

    // Another role sees a part of the rows: it may not say what the table holds.
    let role = format!("enfold_worker_{}", std::process::id());
    f.sql(&format!("DROP ROLE IF EXISTS {role}; CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA public TO {role}; GRANT SELECT ON t TO {role}")).await;
    let other = at(&f.db.url().replace("postgres@", &format!("{role}@")));
    let facts = other.inspect_table(&policy("t", &["a"]), Counts::Taken).await.expect("facts of the definition");
    refuses(&facts, "row-security-hides");
    let grant = format!("GRANT UPDATE ON public.t TO \"{role}\"");
    assert_eq!(refuses(&facts, "missing-right").way_out.as_deref(), Some(grant.as_str()));
    warns(&facts, "not-owner");
    drop(other);
    f.sql(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
}

#[tokio::test]
async fn what_values_are_bound_to_is_looked_at() {
    let f = Fixture::new(
        "CREATE TABLE orgs (id int PRIMARY KEY, code text UNIQUE);
         CREATE TABLE t (id int PRIMARY KEY, org text REFERENCES orgs (code) ON UPDATE CASCADE, born date NOT NULL, a text, b text);
         INSERT INTO t VALUES (1, NULL, now(), 'a')",
    )
    .await;
    let mut p = policy("t", &["a", "b"]);
    p.tenant = Some("org".into());
    p.row_key = vec!["born".into()];
    let facts = f.facts(&p).await;
    assert!(warns(&facts, "bound-nullable").says.contains("1 rows"));
    warns(&facts, "bound-cascade");
    warns(&facts, "row-key-not-unique");
    assert!(refuses(&facts, "bound-type").says.contains("`born`"));
    p.row_key = vec!["id".into(), "b".into()];
    let facts = f.facts(&p).await;
    assert!(refuses(&facts, "bound-protected").says.contains("`b`"));
    silent(&facts, "row-key-not-unique");
    silent(&facts, "bound-type");
}

#[tokio::test]
async fn what_stands_beside_a_value_must_take_null_and_be_spelled_as_the_value_is() {
    let f = Fixture::new(
        "CREATE TABLE t (id int PRIMARY KEY, a text, iv text NOT NULL, tag bytea, CONSTRAINT whole CHECK (a IS NULL OR iv <> ''));
         INSERT INTO t VALUES (1, 'a', 'iv', NULL)",
    )
    .await;
    let mut p = policy("t", &["a"]);
    let companions = |names: [&str; 2]| {
        [(Companion::Iv, names[0].to_owned()), (Companion::Tag, names[1].to_owned())].into_iter().collect()
    };
    p.columns.get_mut("a").unwrap().companions = companions(["iv", "tag"]);
    let facts = f.facts(&p).await;
    assert_eq!(words(&facts.refusals), ["companion-required", "companion-type"]);
    let out = refuses(&facts, "companion-required").way_out.clone().unwrap();
    assert_eq!(out, "ALTER TABLE public.t ALTER COLUMN \"iv\" DROP NOT NULL");
    f.sql(&out).await;
    f.sql("ALTER TABLE t ALTER COLUMN tag TYPE text").await;
    // NULL is not unequal to anything, so the check takes a value alone.
    let facts = f.facts(&p).await;
    assert_eq!(facts.refusals, []);
    assert_eq!(warns(&facts, "check-blind").column.as_deref(), Some("a"));

    f.sql("ALTER TABLE t DROP CONSTRAINT whole, ADD CONSTRAINT whole CHECK (a IS NULL OR iv IS NOT NULL)").await;
    let facts = f.facts(&p).await;
    assert_eq!(refuses(&facts, "check-constraint").column.as_deref(), Some("a"));
    p.columns.get_mut("a").unwrap().companions = companions(["iv", "nowhere"]);
    let error = f.postgres.inspect(&p, Counts::Taken).await.err().unwrap();
    assert_eq!(error.code(), Code::TableMissing);
    assert!(error.causes().any(|cause| cause.contains("nowhere")), "{error}");
}
