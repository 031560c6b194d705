//! What the token may do with a key: `sys/capabilities-self`, which the policy `default` allows.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Serialize;

use crate::kms::json;
use crate::kms::service::{Held, NeededBy, Permission};

/// A capability on a path.
pub(super) struct Asked {
    capability: &'static str,
    path: String,
    needed_by: NeededBy,
}

/// The capabilities of the token, by path.
pub(super) type Capabilities = BTreeMap<String, serde_json::Value>;

#[derive(Serialize)]
struct Question<'a> {
    paths: Vec<&'a str>,
}

/// What there is to be done with a key of a transit engine.
pub(super) fn of(mount: &str, key: &str) -> Vec<Asked> {
    use NeededBy::{Applications, Nobody, Operators};
    let asked = |capability, path: &str, needed_by| Asked { capability, path: format!("{mount}/{path}"), needed_by };
    vec![
        asked("update", &format!("encrypt/{key}"), Applications),
        asked("update", &format!("decrypt/{key}"), Applications),
        asked("update", &format!("datakey/plaintext/{key}"), Applications),
        asked("update", &format!("rewrap/{key}"), Applications),
        asked("read", &format!("keys/{key}"), Applications),
        asked("update", &format!("keys/{key}/rotate"), Operators),
        asked("update", &format!("keys/{key}/config"), Operators),
        asked("update", &format!("keys/{key}/trim"), Operators),
        asked("delete", &format!("keys/{key}"), Operators),
        // With it the server makes a key that is missing, and wraps under that.
        asked("create", &format!("encrypt/{key}"), Nobody),
        asked("read", &format!("export/encryption-key/{key}"), Nobody),
        asked("read", &format!("backup/{key}"), Nobody),
    ]
}

pub(super) fn question(asked: &[Asked]) -> Bytes {
    let paths: Vec<&str> = asked.iter().map(|asked| asked.path.as_str()).collect();
    let room = paths.iter().map(|path| path.len() + 8).sum::<usize>() + 64;
    json::body(&Question { paths }, room)
}

/// `held`: none where the token may not ask.
pub(super) fn answered(asked: Vec<Asked>, held: Option<&Capabilities>) -> Vec<Permission> {
    let has = |path: &str, capability: &str| {
        let on_path = held.and_then(|held| held.get(path)).and_then(serde_json::Value::as_array);
        on_path.into_iter().flatten().any(|held| held.as_str() == Some(capability))
    };
    let root = asked.iter().any(|asked| has(&asked.path, "root"));
    let sudo = asked.iter().find(|asked| has(&asked.path, "sudo")).map(|asked| asked.path.clone());
    let mut permissions: Vec<Permission> = asked
        .into_iter()
        .map(|Asked { capability, path, needed_by }| {
            let held = match held {
                None => Held::NotTold,
                Some(_) if root || has(&path, capability) => Held::Yes,
                Some(_) => Held::No,
            };
            Permission { name: format!("{capability} on {path}"), held, needed_by }
        })
        .collect();
    let beyond = match (root, sudo) {
        (true, _) => Some("everything (a root token)".to_owned()),
        (false, Some(path)) => Some(format!("sudo on {path}")),
        (false, None) => None,
    };
    permissions.extend(beyond.map(|name| Permission { name, held: Held::Yes, needed_by: NeededBy::Nobody }));
    permissions
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn held(capabilities: &serde_json::Value) -> Vec<String> {
        let capabilities: Capabilities = serde_json::from_value(capabilities.clone()).unwrap();
        let all = answered(of("transit", "k"), Some(&capabilities));
        all.into_iter().filter(|p| p.held == Held::Yes).map(|p| p.name).collect()
    }

    #[test]
    fn a_capability_counts_on_its_own_path_alone_and_sudo_and_root_are_named() {
        assert_eq!(held(&json!({ "transit/keys/k": ["read", "list"] })), ["read on transit/keys/k"]);
        assert_eq!(held(&json!({ "transit/keys/k": ["deny"], "transit/keys/other": ["delete"] })), [""; 0]);
        let sudo = held(&json!({ "transit/keys/k": ["delete", "sudo"] }));
        assert_eq!(sudo, ["delete on transit/keys/k", "sudo on transit/keys/k"]);
        let root = held(&json!({ "transit/keys/k": ["root"] }));
        assert_eq!((root.len(), root.last().unwrap().as_str()), (13, "everything (a root token)"));
    }

    #[test]
    fn who_may_not_ask_is_told_nothing() {
        assert!(answered(of("transit", "k"), None).iter().all(|p| p.held == Held::NotTold));
    }
}
