//! Blind indexes, wrapped keys, row tags.

use serde_json::{Value, json};

use super::{DATA_KEY, KEY_ID, RECORD_KEY, hex, id, key, part, wrapped};
use crate::OwnedPart;
use crate::index::{BlindIndex, IndexSpec, Normaliser};
use crate::mac::RowMac;
use crate::wrap::WrapContext;

pub(super) fn cases() -> Vec<(&'static str, Value)> {
    let mut cases = indexes();
    cases.extend(wraps());
    cases.extend(tags());
    cases
}

fn spec() -> IndexSpec {
    IndexSpec {
        ring_id: "main".into(),
        column_ids: vec!["users.email".into()],
        name: "eq".into(),
        normalise: vec![],
        bits: 256,
        unique: false,
        cross_tenant: false,
        generation: 1,
    }
}

/// Name, what it says, the index, the tenant, the values.
type IndexCase = (&'static str, &'static str, IndexSpec, Option<OwnedPart>, &'static [&'static str]);

fn indexes() -> Vec<(&'static str, Value)> {
    use Normaliser::{Digits, Email, LastN, Lower, Nfkc, Trim, WordPrefix};
    let steps = |normalise: &[Normaliser]| IndexSpec { normalise: normalise.to_vec(), ..spec() };
    let seven = || Some(OwnedPart::Int(7));
    let two = || IndexSpec { column_ids: vec!["users.first".into(), "users.last".into()], ..spec() };
    let cases: Vec<IndexCase> = vec![
        ("index_plain", "one column, no normaliser, for one tenant", spec(), seven(), &["anna@example.org"]),
        ("index_without_tenant", "a table without tenants", spec(), None, &["anna@example.org"]),
        (
            "index_across_tenants",
            "bound to no tenant on purpose, which is another key than a table without tenants has",
            IndexSpec { cross_tenant: true, ..spec() },
            None,
            &["anna@example.org"],
        ),
        (
            "index_second_generation",
            "the first two bytes say so",
            IndexSpec { generation: 2, ..spec() },
            seven(),
            &["anna@example.org"],
        ),
        (
            "index_of_12_bits",
            "the bits beyond are zero",
            IndexSpec { bits: 12, ..spec() },
            seven(),
            &["anna@example.org"],
        ),
        ("index_of_8_bits", "the fewest", IndexSpec { bits: 8, ..spec() }, seven(), &["anna@example.org"]),
        ("index_of_the_empty_value", "the empty value has an index; NULL has none", spec(), seven(), &[""]),
        ("index_over_two_columns", "in the order of the policy", two(), seven(), &["Anna", "Maria Berg"]),
        (
            "index_over_two_columns_divided_elsewhere",
            "differs from index_over_two_columns",
            two(),
            seven(),
            &["Anna Maria", "Berg"],
        ),
        ("index_trim", "white space at both ends", steps(&[Trim]), seven(), &["\u{a0} anna \n"]),
        ("index_lower", "Unicode lower case", steps(&[Lower]), seven(), &["ÀNNA Straße"]),
        ("index_nfkc", "compatibility forms", steps(&[Nfkc]), seven(), &["ﬁ Ⅷ ｅ e\u{301}"]),
        ("index_digits", "ASCII digits only", steps(&[Digits]), seven(), &["+49 (30) 12-3x"]),
        ("index_email", "NFKC, trimmed, lower case", steps(&[Email]), seven(), &[" Ａnna@Example.ORG "]),
        ("index_last_4", "the last four characters", steps(&[LastN(4)]), seven(), &["DE89 3704 0044 05é2"]),
        (
            "index_word_prefix_2",
            "two characters of each word",
            steps(&[WordPrefix(2)]),
            seven(),
            &["Anna  Maria Ørsted x"],
        ),
        ("index_steps_in_order", "digits, then the last two", steps(&[Trim, Digits, LastN(2)]), seven(), &[" 12a34x "]),
    ];
    cases
        .into_iter()
        .map(|(name, says, spec, tenant, values)| (name, index(says, spec, tenant.as_ref(), values)))
        .collect()
}

fn index(says: &str, spec: IndexSpec, tenant: Option<&OwnedPart>, values: &[&str]) -> Value {
    let index = BlindIndex::new(&key(DATA_KEY), id(KEY_ID), spec).unwrap();
    let value = index.compute(tenant.map(OwnedPart::as_part), values).unwrap();
    let spec = index.spec();
    let mut case = json!({
        "says": says,
        "does": "index",
        "index_key": hex(&DATA_KEY),
        "key_id": hex(&KEY_ID),
        "ring": spec.ring_id,
        "columns": spec.column_ids,
        "name": spec.name,
        "normalise": spec.normalise.iter().map(step).collect::<Vec<_>>(),
        "bits": spec.bits,
        "cross_tenant": spec.cross_tenant,
        "generation": spec.generation,
    });
    if let Some(tenant) = tenant {
        case["tenant"] = part(tenant);
    }
    case["values"] = values.iter().copied().collect();
    case["index"] = hex(&value).into();
    case
}

fn step(step: &Normaliser) -> Value {
    match step {
        Normaliser::Trim => "trim".into(),
        Normaliser::Lower => "lower".into(),
        Normaliser::Nfkc => "nfkc".into(),
        Normaliser::Digits => "digits".into(),
        Normaliser::Email => "email".into(),
        Normaliser::LastN(n) => json!({ "last": n }),
        Normaliser::WordPrefix(n) => json!({ "word_prefix": n }),
    }
}

fn wraps() -> Vec<(&'static str, Value)> {
    let name = "wrapped_key";
    let fields = [OwnedPart::Text("data key".into()), OwnedPart::Uuid(super::OTHER_KEY_ID)];
    let bytes = wrapped(name, &WrapContext::of(&fields.each_ref().map(|field| field.as_part())));
    let case = |says: &str, fields: &[OwnedPart], bytes: &[u8]| {
        json!({
            "says": says,
            "does": "unwrap",
            "data_key": hex(&DATA_KEY),
            "key_id": hex(&KEY_ID),
            "fields": fields.iter().map(part).collect::<Vec<_>>(),
            "wrapped": hex(bytes),
        })
    };
    let mut good = case("a data key wrapped by a data key for a context of two fields", &fields, &bytes);
    good["result"] = "opens".into();
    good["key"] = hex(&RECORD_KEY).into();
    let mut elsewhere = case("the fields in another order", &[fields[1].clone(), fields[0].clone()], &bytes);
    elsewhere["result"] = "refused".into();
    let mut short = case("a byte is missing", &fields, &bytes[..107]);
    short["result"] = "refused".into();
    vec![(name, good), ("wrapped_key_for_another_context", elsewhere), ("wrapped_key_cut_short", short)]
}

fn tags() -> Vec<(&'static str, Value)> {
    let mac = RowMac::new(&key(DATA_KEY), id(KEY_ID)).unwrap();
    let fields = [OwnedPart::Text("data key".into()), OwnedPart::Int(3), OwnedPart::Bytes(vec![1, 2, 3])];
    let case = json!({
        "says": "the tag of a catalog row of three fields, and the check value of its key",
        "does": "tag",
        "data_key": hex(&DATA_KEY),
        "key_id": hex(&KEY_ID),
        "fields": fields.iter().map(part).collect::<Vec<_>>(),
        "tag": hex(&mac.tag(&fields.each_ref().map(|field| field.as_part()))),
        "check_value": hex(&mac.check_value()),
    });
    vec![("row_tag", case)]
}
