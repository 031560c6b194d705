//! Spans by which somebody sees where the time of a call went: in a queue, looking for a data key, asking a key service, sealing and
//! opening, or in a database.
//!
//! They are `tracing`'s, under the target [`TARGET`], with the phase in a field of that name. What they say besides are names of the
//! policy, words of closed sets and counts. One that nobody listens to costs a look at a flag, and a single value with its data key at
//! hand has none.

use std::fmt;
use std::sync::OnceLock;

use crate::hex::{from_hex, hex};

/// The target of every span.
pub const TARGET: &str = "traces";

/// What a call belongs to, as W3C Trace Context has it in the header `traceparent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parent {
    pub trace: [u8; 16],
    pub span: [u8; 8],
    /// Whoever began the trace keeps it.
    pub sampled: bool,
}

impl Parent {
    /// Reads the header. Of a later version, what this one has of it; none where that is not sound (section 3.2.2 there).
    pub fn parse(header: &str) -> Option<Self> {
        let mut parts = header.split('-');
        let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let lower = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
        if ![version, trace, span, flags].iter().all(|part| lower(part)) {
            return None;
        }
        let (version, [flags]) = (exactly::<1>(version)?, exactly::<1>(flags)?);
        let is_known = version == [0];
        if version == [0xff] || (is_known && parts.next().is_some()) {
            return None;
        }
        let (trace, span) = (exactly::<16>(trace)?, exactly::<8>(span)?);
        let is_sound = trace != [0; 16] && span != [0; 8];
        is_sound.then_some(Self { trace, span, sampled: flags & 1 == 1 })
    }
}

impl fmt::Display for Parent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{}-{}-{:02x}", hex(&self.trace), hex(&self.span), u8::from(self.sampled))
    }
}

fn exactly<const N: usize>(text: &str) -> Option<[u8; N]> {
    from_hex(text)?.try_into().ok()
}

static CURRENT: OnceLock<fn() -> Option<Parent>> = OnceLock::new();

/// Has calls to key services that speak HTTP carry the trace that they belong to: `current` says which that is. Once in a process.
pub fn pass_on(current: fn() -> Option<Parent>) {
    CURRENT.set(current).ok();
}

/// What a call that is made now belongs to.
#[cfg_attr(not(feature = "http"), allow(dead_code, reason = "nothing is called over HTTP"))]
pub(crate) fn current() -> Option<Parent> {
    CURRENT.get()?()
}

/// A span of a phase, with fields that are known now, and then those that are recorded later.
macro_rules! span {
    ($name:literal, $phase:literal $(, $field:ident = $value:expr)* $(; $($later:ident),*)?) => {
        ::tracing::info_span!(
            target: $crate::traces::TARGET,
            $name,
            phase = $phase
            $(, $field = $value)*
            $($(, $later = ::tracing::field::Empty)*)?
        )
    };
}
pub(crate) use span;

#[cfg(test)]
mod tests {
    use super::*;

    const SOUND: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_header_is_read_and_written_alike() {
        let parent = Parent::parse(SOUND).unwrap();
        assert_eq!((parent.to_string().as_str(), parent.sampled), (SOUND, true));
        assert!(!Parent::parse(&SOUND.replace("-01", "-00")).unwrap().sampled);
        let later = format!("{}-more", SOUND.replacen("00", "cc", 1));
        assert_eq!(Parent::parse(&later), Some(parent), "a later version may say more");
    }

    #[test]
    fn a_header_that_is_not_sound_is_none() {
        let zero_trace = format!("00-{}-b7ad6b7169203331-01", "0".repeat(32));
        let zero_span = format!("00-0af7651916cd43dd8448eb211c80319c-{}-01", "0".repeat(16));
        let unsound = [
            "",
            "00",
            &SOUND[..54],
            &SOUND.to_uppercase(),
            &SOUND.replacen("00", "ff", 1),
            &format!("{SOUND}-more"),
            &SOUND.replace("b7ad", "b7a"),
            &SOUND.replace("0af7", "0ag7"),
            &zero_trace,
            &zero_span,
        ];
        for header in unsound {
            assert_eq!(Parent::parse(header), None, "{header}");
        }
    }
}
