//! Of random grants and random rules: what rules leave is what was granted and no rule forbids, and nothing besides.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;

use enfold::access::{Grant, Permission, Role, Subject};
use enfold_core::Part;
use proptest::prelude::*;

use super::super::Identity;
use super::{Batch, Caller};
use crate::rules::tests::rules;

/// Names, classes and rings of the columns.
const COLUMNS: [(&str, Option<&str>, &str); 3] =
    [("users.email", Some("email"), "main"), ("users.card", Some("card"), "cards"), ("note", None, "cards")];
const TENANTS: [Option<&str>; 4] = [None, Some("acme"), Some("other"), Some("third")];
const ROLES: [Role; 2] = [Role::App, Role::Reader];
const PERMISSIONS: [Permission; 2] = [Permission::Encrypt, Permission::Decrypt];

/// A rule, with a meaning of its own to compare Cedar's with.
#[derive(Clone, Debug)]
struct Forbids {
    role: Option<Role>,
    permission: Option<Permission>,
    within: Option<(&'static str, &'static str)>,
    /// All but what is within.
    outside: bool,
    /// Without a reason alone.
    unsaid: bool,
}

impl Forbids {
    fn text(&self, number: usize) -> String {
        let role = self.role.map(|role| format!(" in Role::\"{}\"", role.word())).unwrap_or_default();
        let action =
            self.permission.map(|permission| format!(" == Action::\"{}\"", permission.word())).unwrap_or_default();
        let mut text = format!("@id(\"{number}\") forbid(principal{role}, action{action}, resource is Value)");
        if let Some((kind, name)) = self.within {
            let word = if self.outside { "unless" } else { "when" };
            let _ = write!(text, " {word} {{ resource in {kind}::\"{name}\" }}");
        }
        if self.unsaid {
            text.push_str(" when { context.reason == \"\" }");
        }
        text + ";\n"
    }

    fn forbids(&self, roles: &[Role], asked: &Asked) -> bool {
        let (column, class, ring) = COLUMNS[asked.column];
        let is_within = self.within.is_none_or(|(kind, name)| {
            let is_in = match kind {
                "Column" => name == column,
                "Class" => Some(name) == class,
                "Ring" => name == ring,
                _ => Some(name) == asked.tenant,
            };
            is_in != self.outside
        });
        self.role.is_none_or(|role| roles.contains(&role))
            && self.permission.is_none_or(|permission| permission == asked.permission)
            && (!self.unsaid || asked.reason.is_none())
            && is_within
    }
}

#[derive(Clone, Copy, Debug)]
struct Asked {
    permission: Permission,
    column: usize,
    tenant: Option<&'static str>,
    reason: Option<&'static str>,
}

fn grant() -> impl Strategy<Value = Grant> {
    let some = |names: &'static [&'static str]| {
        let set = prop::sample::subsequence(names, 0..=names.len());
        prop::option::of(set.prop_map(|names| names.into_iter().map(str::to_owned).collect::<BTreeSet<_>>()))
    };
    let (tenants, classes, columns) =
        (some(&["acme", "other"]), some(&["email", "card"]), some(&["users.email", "note"]));
    (prop::sample::select(&ROLES[..]), tenants, classes, columns).prop_map(|(role, tenants, classes, columns)| Grant {
        role,
        tenants,
        classes,
        columns,
    })
}

fn rule() -> impl Strategy<Value = Forbids> {
    let within = prop::sample::select(
        &[
            ("Column", "note"),
            ("Class", "email"),
            ("Class", "card"),
            ("Ring", "cards"),
            ("Tenant", "acme"),
            ("Tenant", "other"),
        ][..],
    );
    let role = prop::option::of(prop::sample::select(&ROLES[..]));
    let permission = prop::option::of(prop::sample::select(&PERMISSIONS[..]));
    (role, permission, prop::option::of(within), any::<bool>(), any::<bool>())
        .prop_map(|(role, permission, within, outside, unsaid)| Forbids { role, permission, within, outside, unsaid })
}

fn caller(rules: Option<&Arc<crate::rules::Rules>>, grants: &[Grant]) -> Caller {
    let identity = Arc::new(Identity::program("service-key:a".to_owned(), grants.to_vec()));
    Caller::new(rules, identity, Some("127.0.0.1".parse().expect("an address")))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn rules_take_away_what_they_forbid_and_give_nothing(
        grants in prop::collection::vec(grant(), 0..3),
        written in prop::collection::vec(rule(), 1..4),
    ) {
        let text: String = written.iter().enumerate().map(|(number, rule)| rule.text(number)).collect();
        let rules = rules(&text);
        let (free, ruled) = (caller(None, &grants), caller(Some(&rules), &grants));
        let roles: Vec<Role> = grants.iter().map(|grant| grant.role).collect();
        for (permission, reason) in PERMISSIONS.into_iter().flat_map(|of| [(of, None), (of, Some("a test"))]) {
            let (mut before, mut after) = (Batch::new(&free, permission, reason), Batch::new(&ruled, permission, reason));
            // Twice, as what was told of a column and tenant is told again.
            for column in (0..COLUMNS.len()).chain(0..COLUMNS.len()) {
                let mut forbidden = Vec::new();
                for tenant in TENANTS {
                    let asked = Asked { permission, column, tenant, reason };
                    let (name, class, _) = COLUMNS[column];
                    let subject = Subject { column: name, class, tenant: tenant.map(Part::Text) };
                    let (granted, left) = (before.check(&subject), after.check(&subject));
                    let is_forbidden = written.iter().any(|rule| rule.forbids(&roles, &asked));
                    prop_assert_eq!(left.is_ok(), granted.is_ok() && !is_forbidden, "{:?}\n{}", asked, &text);
                    forbidden.push((is_forbidden, granted, left));
                }
                // Who is held to no tenant may do it for each, or for none.
                let differs = forbidden.iter().any(|(is_forbidden, ..)| *is_forbidden);
                for (_, granted, left) in &forbidden {
                    if let (Ok(granted), Ok(left)) = (granted, left) {
                        prop_assert_eq!(left.tenants_only, granted.tenants_only || differs, "{}", &text);
                    }
                }
            }
        }
    }
}
