//! The ways to get a token. Every credential is read when it is needed, so that whoever renews it needs no restart.

use std::path::Path;
use std::time::Instant;

use bytes::Bytes;
use reqwest::Method;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::session::{Grant, Session, Vault};
use super::wire;
use crate::error::{Code, Error, Result};
use crate::kms::failure::{self, Operation};
use crate::kms::http::{self, Answer};
use crate::kms::json::{self, Text};
use crate::kms::secret::{Readers, SecretSource};
use crate::kms::uri::KeyUri;
use crate::policy::VaultSignIn;

/// What the command-line tools of both servers look at.
const TOKEN_VARIABLE: &str = "VAULT_TOKEN";
const SECRET_ID_VARIABLE: &str = "VAULT_SECRET_ID";

/// `auth` of an answer to a sign-in or a renewal.
#[derive(Deserialize)]
struct Granted {
    auth: Grant,
}

/// What a token says of itself.
#[derive(Deserialize)]
struct Lookup {
    ttl: u64,
    #[serde(default)]
    renewable: bool,
}

/// A new token. `namespace`: where the sign-in happens.
pub(super) async fn sign_in(
    vault: &Vault,
    operation: Operation,
    how: &VaultSignIn,
    namespace: Option<&str>,
) -> Result<Session> {
    let failed = |error: Error| error.while_doing(format!("cannot sign in for `{}`", vault.uri));
    let (mount, body) = match how {
        VaultSignIn::Token { file } => return token(vault, operation, file, namespace).await.map_err(failed),
        VaultSignIn::AppRole { mount, role_id, secret_id_file } => {
            let secret_id = credential(secret_id_file, SECRET_ID_VARIABLE).map_err(failed)?;
            (mount, body(&AppRole { role_id, secret_id: &secret_id }, role_id.len() + secret_id.len()))
        }
        VaultSignIn::Jwt { mount, role, file } => (mount, with_jwt(role, file, Readers::Closed).map_err(failed)?),
        VaultSignIn::Kubernetes { mount, role, file } => (mount, with_jwt(role, file, Readers::Any).map_err(failed)?),
        // The connection says who it is.
        VaultSignIn::Certificate { mount, role, .. } => {
            let name = role.as_deref();
            (mount, body(&Certificate { name }, name.map_or(0, str::len)))
        }
    };
    let began = Instant::now();
    let path = format!("auth/{mount}/login");
    let answer = vault.send(operation, Method::POST, &path, namespace, None, Some(body)).await.map_err(failed)?;
    match answer.status {
        200 => Ok(Session::new(grant(operation, &vault.uri, &answer)?, began)),
        _ => Err(refused(operation, &vault.uri, mount, how, &answer)),
    }
}

/// The token of an answer.
pub(super) fn grant(operation: Operation, uri: &KeyUri, answer: &Answer) -> Result<Grant> {
    let granted: Granted =
        serde_json::from_slice(&answer.body).map_err(|_| failure::unusable(operation, uri, "it holds no token"))?;
    Ok(granted.auth)
}

/// The token that is given, with the life that it has left.
async fn token(
    vault: &Vault,
    operation: Operation,
    file: &Option<std::path::PathBuf>,
    namespace: Option<&str>,
) -> Result<Session> {
    let text = credential(file, TOKEN_VARIABLE)?;
    let bare = |ttl: u64, renewable: bool| Grant {
        client_token: Text(Zeroizing::new(text.as_str().to_owned())),
        lease_duration: ttl,
        renewable,
    };
    let began = Instant::now();
    let session = Session::new(bare(0, false), began);
    let path = "auth/token/lookup-self";
    let answer = vault.send(operation, Method::GET, path, namespace, Some(&session), None).await?;
    match answer.status {
        200 => {
            let about: Lookup = wire::data(operation, &vault.uri, &answer)?;
            Ok(Session::new(bare(about.ttl, about.renewable), began))
        }
        // A token that may not even ask about itself may be good for the calls that it was made for.
        403 => Ok(session),
        _ => Err(wire::failed(operation, &vault.uri, &answer)),
    }
}

/// The servers refuse a sign-in with 400 or 403 and a sentence that may quote what was sent.
fn refused(operation: Operation, uri: &KeyUri, mount: &str, how: &VaultSignIn, answer: &Answer) -> Error {
    let sealed_or_busy = answer.status == 429 || answer.status >= 412;
    let error = if sealed_or_busy {
        return wire::failed(operation, uri, answer).while_doing(format!("cannot sign in for `{uri}`"));
    } else if answer.status == 404 {
        failure::denied(operation, uri).cause(format!("there is no way to sign in at `auth/{mount}`"))
    } else {
        failure::denied(operation, uri)
            .cause(format!("the sign-in at `auth/{mount}` was refused"))
            .cause(http::answered(answer.status))
    };
    let hint = match how {
        VaultSignIn::Token { .. } => "make a new token",
        VaultSignIn::AppRole { .. } => "see whether the SecretID has expired or was used up; have a new one made",
        VaultSignIn::Jwt { .. } => {
            "see whether the token in `jwt_file` is still good, and whether issuer, audience and claims are those of the role"
        }
        VaultSignIn::Kubernetes { .. } => {
            "see whether service account and namespace are those of the role, and whether the server can ask the cluster"
        }
        VaultSignIn::Certificate { .. } => {
            "see whether the role trusts the certificate's authority, and whether the listener asks for certificates"
        }
    };
    debug_assert_eq!(error.code(), Code::KmsAccessDenied);
    error.hint(hint).while_doing(format!("cannot sign in for `{uri}`"))
}

fn credential(file: &Option<std::path::PathBuf>, variable: &str) -> Result<Zeroizing<String>> {
    match file {
        Some(path) => SecretSource::File(path.clone()).read(),
        None => SecretSource::Variable(variable.to_owned())
            .read()
            .map_err(|error| error.hint("or name a file in the policy, under `key_services.vault`")),
    }
}

fn with_jwt(role: &str, file: &Path, readers: Readers) -> Result<Bytes> {
    let jwt = SecretSource::File(file.to_owned()).read_among(readers)?;
    Ok(body(&Jwt { role, jwt: &jwt }, role.len() + jwt.len()))
}

fn body(value: &impl Serialize, length: usize) -> Bytes {
    json::body(value, length + 64)
}

#[derive(Serialize)]
struct Jwt<'a> {
    role: &'a str,
    jwt: &'a str,
}

#[derive(Serialize)]
struct Certificate<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
}

#[derive(Serialize)]
struct AppRole<'a> {
    role_id: &'a str,
    secret_id: &'a str,
}
