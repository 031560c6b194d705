//! Where a request came from: the connection's own address, or what proxies that the policy trusts say of it.

use std::net::{IpAddr, SocketAddr};

use axum::http::{HeaderMap, HeaderName, header};
use enfold::policy::{ProxyHeader, ServicePolicy};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Each proxy says who asked it, behind what the one before it says. So the list is read from its end, and as far as whoever says
/// so is trusted: what stands further to the left may be anybody's word.
pub(crate) fn source(policy: &ServicePolicy, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
    let is_trusted = |address| policy.trusted_proxies.iter().any(|network| network.contains(address));
    let mut source = peer.to_canonical();
    for line in headers.get_all(name(policy.proxy_header)).iter().rev() {
        // No header of a client's with a quotation mark in it may swallow what a proxy has added: a comma is one wherever it is.
        for hop in line.to_str().unwrap_or_default().rsplit(',') {
            match address(policy.proxy_header, hop) {
                Some(before) if is_trusted(source) => source = before,
                _ => return source,
            }
        }
    }
    source
}

fn name(header: ProxyHeader) -> HeaderName {
    match header {
        ProxyHeader::XForwardedFor => X_FORWARDED_FOR,
        ProxyHeader::Forwarded => header::FORWARDED,
    }
}

/// None where a hop hides who asked it, or cannot be read.
fn address(header: ProxyHeader, hop: &str) -> Option<IpAddr> {
    let node = match header {
        ProxyHeader::XForwardedFor => hop.trim(),
        // RFC 7239, section 4: `for=192.0.2.60;proto=https`, `For="[2001:db8::1]:4711"`.
        ProxyHeader::Forwarded => hop.split(';').find_map(|pair| {
            let (name, value) = pair.split_once('=')?;
            name.trim().eq_ignore_ascii_case("for").then(|| value.trim().trim_matches('"'))
        })?,
    };
    let bare = node.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(node);
    let address = bare.parse().ok().or_else(|| node.parse::<SocketAddr>().ok().map(|socket| socket.ip()));
    address.map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use enfold::policy::{Policy, Variables, parse};

    use super::*;

    fn policy(service: &str) -> Policy {
        let text = format!(
            "environment = \"development\"\n[database]\nurl = \"sqlite:a.db\"\n[rings.a]\nid = \"a\"\nroots = [\"local:a.key\"]\n\
             scope = \"ring\"\n[service]\n{service}"
        );
        parse(&text, std::path::Path::new("enfold.toml"), &Variables::default()).unwrap()
    }

    fn from(service: &str, peer: &str, header: &'static str, lines: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(header, HeaderValue::from_str(line).unwrap());
        }
        source(&policy(service).service, peer.parse().unwrap(), &headers).to_string()
    }

    const TRUSTED: &str = "trusted_proxies = [\"10.0.0.0/8\", \"fd00::/8\"]\n";

    #[test]
    fn without_a_proxy_that_is_trusted_a_header_says_nothing() {
        let header = "x-forwarded-for";
        assert_eq!(from("", "10.0.0.1", header, &["203.0.113.9"]), "10.0.0.1");
        assert_eq!(from(TRUSTED, "192.0.2.1", header, &["203.0.113.9"]), "192.0.2.1");
        assert_eq!(from(TRUSTED, "10.0.0.1", "x-real-ip", &["203.0.113.9"]), "10.0.0.1");
        assert_eq!(from(TRUSTED, "10.0.0.1", "forwarded", &["for=203.0.113.9"]), "10.0.0.1", "another header");
    }

    #[test]
    fn hops_are_read_from_the_right_and_only_as_far_as_they_are_trusted() {
        let said = |lines: &[&str]| from(TRUSTED, "10.0.0.1", "x-forwarded-for", lines);
        assert_eq!(said(&[]), "10.0.0.1");
        assert_eq!(said(&["203.0.113.9"]), "203.0.113.9");
        assert_eq!(said(&["127.0.0.1, 203.0.113.9"]), "203.0.113.9", "what a client made up stands to the left");
        assert_eq!(said(&["127.0.0.1, 203.0.113.9, 10.7.7.7"]), "203.0.113.9");
        assert_eq!(said(&["127.0.0.1", "203.0.113.9", "10.7.7.7"]), "203.0.113.9", "several lines are one list");
        assert_eq!(said(&["10.9.9.9, 10.7.7.7"]), "10.9.9.9", "from within");
        assert_eq!(said(&["203.0.113.9, unknown, 10.7.7.7"]), "10.7.7.7", "no further than what can be read");
        assert_eq!(said(&["203.0.113.9:4711"]), "203.0.113.9");
        assert_eq!(said(&["[2001:db8::9]:4711"]), "2001:db8::9");
        assert_eq!(from(TRUSTED, "::ffff:10.0.0.1", "x-forwarded-for", &["2001:db8::9"]), "2001:db8::9");
    }

    #[test]
    fn the_header_of_the_rfc_is_read_where_the_policy_says_so() {
        let service = format!("{TRUSTED}proxy_header = \"forwarded\"\n");
        let said = |line: &str| from(&service, "fd00::1", "forwarded", &[line]);
        assert_eq!(said("for=203.0.113.9;proto=https;by=10.0.0.1"), "203.0.113.9");
        assert_eq!(said("proto=https; For=\"[2001:db8::9]:4711\""), "2001:db8::9");
        assert_eq!(said("for=127.0.0.1, for=203.0.113.9, for=10.7.7.7"), "203.0.113.9");
        assert_eq!(said("for=_hidden, for=10.7.7.7"), "10.7.7.7");
        assert_eq!(said("for=\"127.0.0.1, for=203.0.113.9"), "203.0.113.9", "a quotation mark swallows nothing");
        assert_eq!(from(&service, "fd00::1", "x-forwarded-for", &["203.0.113.9"]), "fd00::1");
    }
}
