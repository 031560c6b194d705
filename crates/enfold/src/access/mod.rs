//! Who may do what through the service: permissions, the roles that have them, and what narrows a role.
//!
//! A library call asks none of this: whoever runs in the application's process has its keys. The service asks it of every
//! request. What may be granted is typed here; who was granted what stands in the policy, for those whom an issuer of tokens
//! vouches for, and in the [access list](AccessList), for programs with a service key.

mod emergency;
mod list;
mod service_key;

use std::collections::BTreeSet;

use enfold_core::{OwnedPart, Part};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::keyring::uuid;

pub(crate) use emergency::SeenEmergencies;
pub use emergency::{Emergency, NewEmergency, Standing, Within, Word};
pub use list::{AccessList, NewServiceKey, ServiceKey};
pub use service_key::{ServiceKeySecret, ShownKey};

/// What a request needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Permission {
    /// Seal values, and compute blind indexes.
    Encrypt,
    /// Open values.
    Decrypt,
    /// Keys: rotate, refresh, re-encrypt.
    Admin,
    /// Look at jobs, and steer them.
    Jobs,
    /// Read the log of events.
    Audit,
    /// See how the service, its keys and its coverage are.
    Read,
    /// Ask for access in an emergency.
    Emergency,
    /// Decide about access in emergencies, and review it.
    Approve,
}

impl Permission {
    pub const ALL: [Self; 8] = [
        Self::Encrypt,
        Self::Decrypt,
        Self::Admin,
        Self::Jobs,
        Self::Audit,
        Self::Read,
        Self::Emergency,
        Self::Approve,
    ];

    pub const fn word(self) -> &'static str {
        match self {
            Self::Encrypt => "encryption:encrypt",
            Self::Decrypt => "encryption:decrypt",
            Self::Admin => "encryption:admin",
            Self::Jobs => "encryption:jobs",
            Self::Audit => "encryption:audit",
            Self::Read => "encryption:read",
            Self::Emergency => "encryption:emergency",
            Self::Approve => "encryption:approve",
        }
    }

    /// Whether it is about values, so that tenants, classes and columns can narrow it.
    pub const fn is_of_values(self) -> bool {
        matches!(self, Self::Encrypt | Self::Decrypt)
    }
}

/// A set of permissions with a name. No role that sees values changes keys, and the other way round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Seals and opens values: an application.
    App,
    /// Opens values: a worker that only reads.
    Reader,
    /// Looks at jobs and steers them.
    Jobs,
    /// Keys, jobs and the log; no values.
    Admin,
    /// State and log.
    Security,
    /// The log, and nothing else.
    Audit,
    /// Opens values in an emergency, once that was asked for and approved: a person with a second factor. No service key has it.
    Emergency,
}

impl Role {
    pub const ALL: [Self; 7] =
        [Self::App, Self::Reader, Self::Jobs, Self::Admin, Self::Security, Self::Audit, Self::Emergency];

    pub const fn word(self) -> &'static str {
        match self {
            Self::App => "app",
            Self::Reader => "reader",
            Self::Jobs => "jobs",
            Self::Admin => "admin",
            Self::Security => "security",
            Self::Audit => "audit",
            Self::Emergency => "emergency",
        }
    }

    pub fn sees_values(self) -> bool {
        self.permissions().iter().any(|permission| permission.is_of_values())
    }

    pub const fn permissions(self) -> &'static [Permission] {
        use Permission::{Admin, Approve, Audit, Decrypt, Emergency, Encrypt, Jobs, Read};
        match self {
            Self::App => &[Encrypt, Decrypt, Read],
            Self::Reader => &[Decrypt],
            Self::Jobs => &[Jobs, Read],
            Self::Admin => &[Admin, Jobs, Audit, Read, Approve],
            Self::Security => &[Audit, Read, Approve],
            Self::Audit => &[Audit],
            Self::Emergency => &[Decrypt, Read, Emergency],
        }
    }
}

/// A role, and where it holds. What is `None` narrows nothing; an empty set leaves nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    pub role: Role,
    /// As text, whatever type the tenant has in the tables.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenants: Option<BTreeSet<String>>,
    /// Of columns, by the policy's word; what has no class has none of these.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classes: Option<BTreeSet<String>>,
    /// Columns and values by the policy's names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub columns: Option<BTreeSet<String>>,
}

/// A value that somebody asks about, before anything is known of it.
#[derive(Clone, Copy)]
pub struct Subject<'a> {
    pub column: &'a str,
    pub class: Option<&'a str>,
    pub tenant: Option<Part<'a>>,
}

impl Subject<'_> {
    /// The tenant as the policy, a grant, a rule or a token's claim spells it: a text, a whole number, a UUID in its usual form. Bytes
    /// have no spelling there.
    pub fn tenant_text(&self) -> Option<String> {
        match self.tenant? {
            Part::Text(text) => Some(text.to_owned()),
            Part::Int(number) => Some(number.to_string()),
            Part::Uuid(bytes) => Some(uuid_text(bytes)),
            Part::Bytes(_) => None,
        }
    }
}

impl Grant {
    /// One that nothing narrows.
    pub const fn of(role: Role) -> Self {
        Self { role, tenants: None, classes: None, columns: None }
    }

    pub fn has(&self, permission: Permission) -> bool {
        self.role.permissions().contains(&permission)
    }

    /// Whether it lets its holder do this with that value. Nothing but names is looked at, so that a refusal says nothing of
    /// the value.
    pub fn covers(&self, permission: Permission, subject: &Subject<'_>) -> bool {
        let within = |set: &Option<BTreeSet<String>>, name: Option<&str>| match (set, name) {
            (None, _) => true,
            (Some(set), Some(name)) => set.contains(name),
            (Some(_), None) => false,
        };
        self.has(permission)
            && within(&self.columns, Some(subject.column))
            && within(&self.classes, subject.class)
            && within(&self.tenants, subject.tenant_text().as_deref())
    }

    /// Whether tenants, classes or columns narrow it.
    pub const fn is_narrowed(&self) -> bool {
        self.tenants.is_some() || self.classes.is_some() || self.columns.is_some()
    }
}

fn uuid_text(bytes: [u8; 16]) -> String {
    let digits = crate::hex::hex(&bytes);
    let group = |range: std::ops::Range<usize>| digits.get(range).unwrap_or_default();
    [group(0..8), group(8..12), group(12..16), group(16..20), group(20..32)].join("-")
}

/// A part of a place from a UUID in its usual form: groups of 8, 4, 4, 4 and 12 digits.
pub fn uuid_part(text: &str) -> Option<OwnedPart> {
    uuid(text).map(OwnedPart::Uuid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_role_that_sees_values_changes_keys() {
        for role in Role::ALL {
            let has = |permission| role.permissions().contains(&permission);
            let sees = has(Permission::Encrypt) || has(Permission::Decrypt);
            assert!(!(sees && has(Permission::Admin)), "{}", role.word());
        }
    }

    #[test]
    fn a_grant_covers_what_all_of_its_narrowings_cover() {
        let set = |names: &[&str]| Some(names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>());
        let grant = Grant {
            role: Role::Reader,
            tenants: set(&["acme", "7", "00000000-0000-0000-0000-0000000000ff"]),
            classes: set(&["email"]),
            columns: set(&["users.email"]),
        };
        let uuid = uuid_part("00000000-0000-0000-0000-0000000000FF").unwrap();
        let covered = |permission, column, class, tenant| grant.covers(permission, &Subject { column, class, tenant });
        for tenant in [Part::Text("acme"), Part::Text("7"), Part::Int(7), uuid.as_part()] {
            assert!(covered(Permission::Decrypt, "users.email", Some("email"), Some(tenant)));
        }
        let acme = Some(Part::Text("acme"));
        assert!(!covered(Permission::Encrypt, "users.email", Some("email"), acme));
        assert!(!covered(Permission::Decrypt, "users.phone", Some("email"), acme));
        assert!(!covered(Permission::Decrypt, "users.email", Some("phone"), acme));
        assert!(!covered(Permission::Decrypt, "users.email", None, acme));
        assert!(!covered(Permission::Decrypt, "users.email", Some("email"), Some(Part::Text("ACME"))));
        assert!(!covered(Permission::Decrypt, "users.email", Some("email"), None), "a tenant's grant needs a tenant");
    }

    #[test]
    fn an_empty_set_leaves_nothing() {
        let nobody = Grant { tenants: Some(BTreeSet::new()), ..Grant::of(Role::App) };
        let subject = Subject { column: "c", class: None, tenant: Some(Part::Text("")) };
        assert!(!nobody.covers(Permission::Encrypt, &subject));
        assert!(Grant::of(Role::App).covers(Permission::Encrypt, &subject));
    }
}
