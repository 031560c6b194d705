//! `enfold serve`: the service, with the policy that is there, or with one for development where there is none.
//!
//! In development a service key is made at each start, so that nothing has to be set up before the first request; it goes into a
//! private file, and those of earlier starts are revoked. Keys of development are served on loopback and nowhere else.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use enfold::access::{Grant, NewServiceKey, Role};
use enfold::policy::{Environment, Policy, Variables};
use enfold::{CallContext, Code, Enfold, Error, Result, private_file};
use enfold_server::Service;
use serde_json::json;

use super::{Context, io_fact};
use crate::args::Serve;
use crate::stop;
use crate::words::time;

/// Where a policy is looked for if nobody names one.
const POLICY: &str = "enfold.toml";
/// Where everything stands of a service that was started without a policy.
const FOLDER: &str = "enfold-dev";
const DEVELOPMENT_POLICY: &str = "\
# Made by `enfold serve`, which found no policy: for trying it out, and nothing else. Whoever can read this folder can read
# every value that was sealed with it.
environment = \"development\"

[database]
url = \"sqlite:enfold.db\"

[rings.main]
id = \"main\"
roots = [\"local:root.key\"]
scope = \"column\"

# A value that lives in no column. Columns of a database of yours come from `enfold init`.
[values.example]
id = \"example\"
ring = \"main\"
";
const SERVICE_KEY_FILE: &str = "enfold-service.key";
const KEY_NAME: &str = "development";
const KEY_DAYS: i64 = 30;
const DAY_MS: i64 = 86_400_000;

pub(crate) async fn run(context: &Context<'_>, args: &Serve) -> Result<()> {
    let (policy, made) = policy(context, args)?;
    let address = args.listen.unwrap_or(policy.service.listen);
    let development = policy.environment == Environment::Development;
    check_address(address, development, policy.service.tls.is_some())?;
    let enfold = Enfold::builder(policy).application("enfold serve", env!("CARGO_PKG_VERSION")).build().await?;
    let served = serve(context, &enfold, address, development, made).await;
    let flushed = enfold.settle().await;
    enfold.sign_off().await;
    served.and(flushed)
}

async fn serve(
    context: &Context<'_>,
    enfold: &Enfold,
    address: SocketAddr,
    development: bool,
    made: bool,
) -> Result<()> {
    let key = if development { Some(development_key(enfold, &context.call(None)).await?) } else { None };
    raise_limit_of_files();
    let service = Service::bind(enfold.clone(), address).await?;
    let scheme = if enfold.policy().service.tls.is_some() { "https" } else { "http" };
    let url = format!("{scheme}://{}", service.address()?);
    let metrics = service.figures_address()?.map(|address| format!("http://{address}/metrics"));
    let stop = stop::asked(|line| context.screen.say(line))?;
    let document = json!({
        "url": url,
        "development": development,
        "metrics": metrics,
        "policy": enfold.policy().path,
        "service_key_file": key.as_ref().map(|(path, _)| path),
    });
    context.screen.result(&document, |out| {
        if made {
            out.push_str(&format!("There is no {POLICY} here: this is a policy for trying it out, in {FOLDER}.\n"));
        }
        if let Some((path, expires_ms)) = &key {
            out.push_str("Keys of development: whoever can read their files can read every value.\n");
            out.push_str(&format!(
                "A service key is in {}, until {}.\n",
                path.display(),
                time(*expires_ms).unwrap_or_default()
            ));
        }
        out.push_str(&format!("Listening on {url}\n"));
        metrics.iter().for_each(|url| out.push_str(&format!("Figures are at {url}, for whoever reaches it\n")));
    })?;
    service.run(stop).await;
    Ok(())
}

/// Each connection is a file, and systems begin with few for the sake of old programs: as many as they allow are asked for. Where
/// that fails, or is not enough, the service says so when it is short of them.
fn raise_limit_of_files() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, rustix::process::Rlimit { current: limit.maximum, ..limit }).ok();
}

/// The policy, and whether it was made for this command.
fn policy(context: &Context<'_>, args: &Serve) -> Result<(Policy, bool)> {
    let config = &context.global.config;
    if config.exists() || config != Path::new(POLICY) {
        return Ok((context.policy()?, false));
    }
    let environment = context.variables.get("ENFOLD_ENVIRONMENT").map_or("development", String::as_str);
    if environment != "development" {
        return Err(Error::new(Code::LocalKeyInProduction, "cannot serve without a policy")
            .cause(format!("there is no `{POLICY}` here, and ENFOLD_ENVIRONMENT says `{environment}`"))
            .cause("what is served without one are keys of development")
            .hint("`enfold init` makes a policy; name another one with `--config`"));
    }
    if let Some(address) = args.listen {
        // Before anything is made.
        check_address(address, true, false)?;
    }
    let path = development_policy()?;
    // Nothing of the environment has a say in it: its database must be none of somebody's.
    let policy = enfold::policy::load(&path, &Variables::default())?;
    crate::logging::init(&policy.log, &policy.traces, &context.global.log)?;
    Ok((policy, true))
}

/// Makes the folder for development, if it is not there.
fn development_policy() -> Result<PathBuf> {
    let folder = PathBuf::from(FOLDER);
    let path = folder.join(POLICY);
    if path.exists() {
        return Ok(path);
    }
    let make = || -> std::io::Result<()> {
        use std::os::unix::fs::DirBuilderExt;
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        std::fs::OpenOptions::new().create(true).append(true).open(folder.join("enfold.db"))?;
        std::fs::write(&path, DEVELOPMENT_POLICY)
    };
    make().map_err(|e| {
        Error::new(Code::FileFailed, format!("cannot make a policy for development in `{FOLDER}`")).cause(io_fact(&e))
    })?;
    Ok(path)
}

fn check_address(address: SocketAddr, development: bool, tls: bool) -> Result<()> {
    if address.ip().is_loopback() || (tls && !development) {
        return Ok(());
    }
    let error = Error::new(Code::Usage, format!("cannot serve on `{address}`"));
    Err(match development {
        true => error
            .cause("the policy's environment is development, whose keys are for this machine alone")
            .hint("listen on 127.0.0.1, or serve a policy of another environment"),
        false => error
            .cause("values and credentials would cross the network in the clear")
            .hint("name a certificate in `[service.tls]`, or listen on 127.0.0.1 with a proxy in front that has one"),
    })
}

/// A service key for everything, in a private file beside the policy.
async fn development_key(enfold: &Enfold, context: &CallContext) -> Result<(PathBuf, i64)> {
    let expires_ms = jiff::Timestamp::now().as_millisecond() + KEY_DAYS * DAY_MS;
    let grants = [Role::App, Role::Admin].map(Grant::of).to_vec();
    let wanted = NewServiceKey { name: KEY_NAME.to_owned(), grants, expires_ms, instead: true };
    let (_, secret) = enfold.operator()?.make_service_key(&wanted, context).await?;
    let path = enfold.policy().folder().join(SERVICE_KEY_FILE);
    private_file::put(&path, "service key", secret.expose().as_bytes())?;
    Ok((path, expires_ms))
}
