//! Access rules: what customers write, in Cedar, to narrow what roles grant. A rule forbids; nothing that is written in it gives
//! anything to anybody.
//!
//! What grants are is `enfold::access`; where they are used, and rules asked, is [`identity`](crate::identity). Here is what rules are
//! about ([`schema()`]), how their file is read, and how they are asked. A build without the feature `cedar` has no [`Rules`] at all, so
//! it can serve no policy that names some.

#[cfg(feature = "cedar")]
mod cedar;
mod schema;
#[cfg(all(test, feature = "cedar"))]
pub(crate) mod tests;
#[cfg(any(test, not(feature = "cedar")))]
#[cfg_attr(
    feature = "cedar",
    expect(dead_code, unreachable_pub, reason = "there for the test of what a build without does")
)]
mod without;

use std::net::IpAddr;

use enfold::access::{Permission, Role};

#[cfg(feature = "cedar")]
pub(crate) use self::cedar::Ruled;
#[cfg(feature = "cedar")]
pub use self::cedar::Rules;
pub use self::schema::schema;
#[cfg(not(feature = "cedar"))]
pub(crate) use self::without::Ruled;
#[cfg(not(feature = "cedar"))]
pub use self::without::Rules;

/// What rules are told of whoever asks.
#[cfg_attr(not(feature = "cedar"), expect(dead_code, reason = "nobody reads it where there are no rules"))]
pub(crate) struct Asker<'a> {
    /// As events call them.
    pub(crate) actor: &'a str,
    pub(crate) is_person: bool,
    pub(crate) has_second_factor: bool,
    pub(crate) roles: Vec<Role>,
    /// Where from. Rules forbid everything to those of whom it is not known.
    pub(crate) source: Option<IpAddr>,
    pub(crate) in_emergency: bool,
}

/// A value that somebody asks about, as rules see it.
#[derive(Clone, Copy)]
#[cfg_attr(not(feature = "cedar"), expect(dead_code, reason = "nobody reads it where there are no rules"))]
pub(crate) struct Value<'a> {
    pub(crate) column: &'a str,
    /// As grants spell it; what has no tenant, or one without a spelling, is in none.
    pub(crate) tenant: Option<&'a str>,
    /// Why they ask; empty where they do not say.
    pub(crate) reason: &'a str,
}

/// The action of rules that a permission is: its word.
const fn action(permission: Permission) -> &'static str {
    permission.word()
}
