//! Values of every type whose text is exact come back as they were, bit for bit, whatever the sessions' settings are.

use enfold_jobs::ops::{ApplyOptions, Silent, apply};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestRunner};

use crate::fixture::{Fixture, shadowed};

const ROWS: usize = 400;

/// Name, type, and values as SQL literals without their quotes.
fn types() -> Vec<(&'static str, &'static str, BoxedStrategy<String>)> {
    let day = || (-4700i32..9999, 1u32..13, 1u32..29);
    let date = move || day().prop_map(|(y, m, d)| printed_date(y, m, d));
    let clock = || (0u32..24, 0u32..60, 0u64..60_000_000);
    let time = move || clock().prop_map(|(h, m, us)| printed_time(h, m, us));
    let moment = move || {
        (day(), clock()).prop_map(|((y, mo, d), (h, mi, us))| {
            let (year, era) = if y > 0 { (y, "") } else { (1 - y, " BC") };
            format!("{year:04}-{mo:02}-{d:02} {}{era}", printed_time(h, mi, us))
        })
    };
    let moments =
        move || prop_oneof![8 => moment(), 1 => Just("infinity".to_owned()), 1 => Just("-infinity".to_owned())];
    let zone = || prop_oneof![Just("+00"), Just("-12:30"), Just("+05:45"), Just("+15:59:59")];
    let number = || {
        (any::<i64>(), any::<u32>(), 0usize..9)
            .prop_map(|(a, b, n)| format!("{a}.{:09}", b % 1_000_000_000)[..].to_owned() + &"0".repeat(n))
    };
    let float = || any::<u64>().prop_map(f64::from_bits).prop_map(|f| format!("{f:?}").replace("inf", "Infinity"));
    let float4 = || any::<u32>().prop_map(f32::from_bits).prop_map(|f| format!("{f:?}").replace("inf", "Infinity"));
    let interval = || {
        (-900i32..900, -900i32..900, any::<i32>(), -1i64..2).prop_map(|(months, days, us, sign)| {
            format!("{months} mons {days} days {} us", i64::from(us) * 1000 * sign + i64::from(us % 7))
        })
    };
    let text = || "[ -~é漢\\\\\"{}',]{0,9}".prop_map(|s| s.replace('\'', "''"));
    let element = || prop_oneof![1 => Just("NULL".to_owned()), 9 => text().prop_map(|s| format!("\"{}\"", s.replace('\\', "\\\\").replace('"', "\\\"")))];
    let texts = move || {
        (proptest::collection::vec(element(), 1..5), -3i32..4).prop_map(|(all, from)| {
            let to = from + i32::try_from(all.len()).unwrap() - 1;
            let list = format!("{{{}}}", all.join(","));
            if from == 1 { list } else { format!("[{from}:{to}]={list}") }
        })
    };
    let numbers = proptest::collection::vec(number(), 0..4).prop_map(|all| format!("{{{}}}", all.join(",")));
    let dates =
        proptest::collection::vec((1i32..9999, 1u32..13, 1u32..29).prop_map(|(y, m, d)| printed_date(y, m, d)), 0..4)
            .prop_map(|all| format!("{{{}}}", all.join(",")));
    let bytes = || {
        proptest::collection::vec(any::<u8>(), 0..9)
            .prop_map(|all| all.iter().map(|b| format!("{b:02x}")).collect::<String>())
    };
    let byte_arrays = proptest::collection::vec(bytes(), 0..3).prop_map(|all| {
        format!("{{{}}}", all.iter().map(|hex| format!("\"\\\\x{hex}\"")).collect::<Vec<_>>().join(","))
    });
    let pair = (any::<i32>(), any::<i32>()).prop_map(|(a, b)| if a <= b { (a, b) } else { (b, a) });
    let coordinates = || (float(), float()).prop_map(|(x, y)| format!("({x},{y})"));
    let enf = Just("enf1:-enfARE looks so".to_owned());
    vec![
        (
            "d",
            "date",
            prop_oneof![8 => date(), 1 => Just("infinity".to_owned()), 1 => Just("-infinity".to_owned())].boxed(),
        ),
        ("t", "time", time().boxed()),
        ("tz", "timetz", (time(), zone()).prop_map(|(t, z)| format!("{t}{z}")).boxed()),
        ("ts", "timestamp", moments().boxed()),
        ("tsz", "timestamptz", moments().boxed()),
        ("ts0", "timestamptz(0)", moments().boxed()),
        ("iv", "interval", interval().boxed()),
        ("n", "numeric", prop_oneof![9 => number(), 1 => Just("NaN".to_owned())].boxed()),
        ("n2", "numeric(30,3)", any::<i64>().prop_map(|n| format!("{n}e-3")).boxed()),
        ("f8", "float8", float().boxed()),
        ("f4", "float4", float4().boxed()),
        ("i2", "int2", any::<i16>().prop_map(|n| n.to_string()).boxed()),
        ("i4", "int4", any::<i32>().prop_map(|n| n.to_string()).boxed()),
        ("i8", "int8", any::<i64>().prop_map(|n| n.to_string()).boxed()),
        ("bo", "boolean", any::<bool>().prop_map(|b| b.to_string()).boxed()),
        ("u", "uuid", any::<u128>().prop_map(|n| format!("{n:032x}")).boxed()),
        (
            "ip",
            "inet",
            (any::<[u8; 4]>(), 0u8..33).prop_map(|(a, m)| format!("{}.{}.{}.{}/{m}", a[0], a[1], a[2], a[3])).boxed(),
        ),
        ("ip6", "inet", any::<u128>().prop_map(|n| std::net::Ipv6Addr::from(n).to_string()).boxed()),
        ("net", "cidr", any::<[u8; 2]>().prop_map(|a| format!("{}.{}.0.0/16", a[0], a[1])).boxed()),
        ("mac", "macaddr", any::<[u8; 6]>().prop_map(|a| a.map(|b| format!("{b:02x}")).join(":")).boxed()),
        ("m8", "macaddr8", any::<[u8; 8]>().prop_map(|a| a.map(|b| format!("{b:02x}")).join(":")).boxed()),
        ("bi", "bit varying", "[01]{0,20}".boxed()),
        ("c", "char(30)", prop_oneof![8 => text(), 1 => enf, 1 => Just("trailing  ".to_owned())].boxed()),
        (
            "e",
            "mood",
            prop_oneof![Just("sad"), Just("it''s \"quoted\" \\ {x,y}"), Just("NULL"), Just("enf1:glad")]
                .prop_map(str::to_owned)
                .boxed(),
        ),
        ("ta", "text[]", texts().boxed()),
        ("na", "numeric[]", numbers.boxed()),
        ("da", "date[]", dates.boxed()),
        ("ba", "bytea[]", byte_arrays.boxed()),
        ("i42", "int[]", any::<[i32; 4]>().prop_map(|[a, b, c, d]| format!("{{{{{a},{b}}},{{{c},{d}}}}}")).boxed()),
        ("ir", "int4range", pair.prop_map(|(a, b)| format!("[{a},{b})")).boxed()),
        (
            "nr",
            "numrange",
            prop_oneof![Just("(1.0,2.00]"), Just("empty"), Just("[,5.50)"), Just("(,)")]
                .prop_map(str::to_owned)
                .boxed(),
        ),
        ("dr", "datemultirange", Just("{[2000-01-01,2000-02-01),[2001-01-01,)}".to_owned()).boxed()),
        ("po", "point", coordinates().boxed()),
        ("dm", "age", (0i32..150).prop_map(|n| n.to_string()).boxed()),
        ("co", "mail", "[a-zA-Z]{1,6}@[a-zA-Z]{1,6}".boxed()),
    ]
}

fn printed_date(y: i32, m: u32, d: u32) -> String {
    if y > 0 { format!("{y:04}-{m:02}-{d:02}") } else { format!("{:04}-{m:02}-{d:02} BC", 1 - y) }
}

fn printed_time(h: u32, m: u32, us: u64) -> String {
    format!("{h:02}:{m:02}:{:02}.{:06}", us / 1_000_000, us % 1_000_000)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_value_comes_back_bit_for_bit() {
    // The seed is printed where it fails, and replays with PROPTEST_RNG_SEED.
    let mut runner = TestRunner::new(Config::default());
    let types = types();
    let definitions: Vec<String> = types.iter().map(|(name, kind, _)| format!("{name} {kind}")).collect();
    let mut schema = format!(
        "CREATE EXTENSION citext; CREATE TYPE mood AS ENUM ('sad', 'it''s \"quoted\" \\ {{x,y}}', 'NULL', 'enf1:glad'); \
         CREATE DOMAIN age AS int CHECK (VALUE BETWEEN 0 AND 200); CREATE DOMAIN mail AS citext CHECK (VALUE ~ '^[^:]+@'); \
         SET DateStyle = ISO; SET IntervalStyle = postgres; SET TimeZone = 'UTC'; \
         CREATE TABLE people (id int PRIMARY KEY, {});",
        definitions.join(", ")
    );
    for id in 0..ROWS {
        let values: Vec<String> = types
            .iter()
            .map(|(_, _, strategy)| {
                let value = strategy.new_tree(&mut runner).expect("a value").current();
                // One in ten is NULL.
                if (id * 31 + value.len()) % 10 == 0 { "NULL".to_owned() } else { format!("'{value}'") }
            })
            .collect();
        schema.push_str(&format!("INSERT INTO people VALUES ({id}, {});", values.join(", ")));
    }
    // What sessions of the application have set, and ours begin with.
    schema.push_str(
        "CREATE TABLE before AS SELECT * FROM people; DO $$ BEGIN \
           EXECUTE format('ALTER DATABASE %I SET DateStyle = ''SQL, DMY''', current_database()); \
           EXECUTE format('ALTER DATABASE %I SET IntervalStyle = sql_standard', current_database()); \
           EXECUTE format('ALTER DATABASE %I SET TimeZone = ''Asia/Kathmandu''', current_database()); \
           EXECUTE format('ALTER DATABASE %I SET bytea_output = escape', current_database()); \
           EXECUTE format('ALTER DATABASE %I SET extra_float_digits = -15', current_database()); END $$;",
    );
    let policy: String = types.iter().map(|(name, _, _)| shadowed(name)).collect();
    let fixture = Fixture::new(&schema, &policy).await;
    let differs = async |name: &str| {
        // The stored image of each value, not the type's equality.
        let sql = format!(
            "SELECT count(*) FROM people p JOIN before b USING (id) WHERE NOT record_image_eq(ROW(p.{name}), ROW(b.{name}))"
        );
        fixture.app.query_one(&sql, &[]).await.unwrap().get::<_, i64>(0)
    };
    fixture.apply().await;
    for (name, kind, _) in &types {
        assert_eq!(fixture.count(&format!("{name} IS NOT NULL")).await, 0, "{kind}");
        assert!(fixture.count(&format!("{name}_enf ~ '^enf1:'")).await > 300, "{kind}");
    }
    fixture.rollback().await;
    for (name, kind, _) in &types {
        assert_eq!(differs(name).await, 0, "{kind} has changed");
    }
    assert_eq!(fixture.traces().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shadow_of_bytes_holds_envelopes_in_the_binary_form() {
    let fixture = Fixture::new(
        "CREATE TABLE people (id int PRIMARY KEY, born date, born_enf bytea, big text[]);
         INSERT INTO people SELECT n, date '2000-01-01' + n FROM generate_series(1, 40) n;
         UPDATE people SET big = array_fill('é' || repeat(md5(id::text), 200), ARRAY[20]) WHERE id % 5 = 0",
        &format!("{}{}", shadowed("born"), shadowed("big")),
    )
    .await;
    let rows = "SELECT md5(ROW(id, born, big)::text) FROM people ORDER BY id";
    let before = fixture.texts(rows).await;
    fixture.apply().await;
    assert_eq!(fixture.count("substring(born_enf FROM 1 FOR 3) = '\\xf9e9df'::bytea AND born IS NULL").await, 40);
    fixture.enforce().await;
    assert!(fixture.refuses("UPDATE people SET born_enf = 'plain' WHERE id = 1").await);
    fixture.rollback().await;
    assert_eq!(fixture.texts(rows).await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_that_cannot_be_read_from_its_text_is_a_row_error_and_stays() {
    let fixture = Fixture::new(
        "CREATE TABLE people (id int PRIMARY KEY, span interval);
         INSERT INTO people SELECT n, n * interval '1 day 2 hours' FROM generate_series(1, 50) n;
         UPDATE people SET span = interval '-9223372036854775807 us' - interval '1 us' WHERE id = 9",
        &shadowed("span"),
    )
    .await;
    let shown = fixture.plan().await;
    let error = apply(&fixture.session, &shown, &ApplyOptions::default(), &Silent).await.unwrap_err();
    assert_eq!(error.code(), enfold::Code::RowsFailed);
    assert!(error.causes().any(|cause| cause.contains("id=9") && cause.contains("not read as the same")), "{error}");
    assert_eq!(fixture.count("span IS NOT NULL").await, 1);
    fixture.rollback().await;
    assert_eq!(fixture.count("span = id * interval '1 day 2 hours'").await, 49);
    assert_eq!(fixture.traces().await, Vec::<String>::new());
}
