//! `enfold log`: what was done with keys and values, by whom, and whether that is still what was written down.

mod opened;
mod prune;
mod verify;

use std::fs::OpenOptions;
use std::io::{BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use enfold::events::{LogKey, SignedCheckpoint, Signer};
use enfold::policy::{edit, format_operator_key};
use enfold::{Code, Enfold, Error, Result};
use serde_json::json;

use crate::args::{ExportLog, InitLog, Log, SignLog};
use crate::commands::{Context, io_fact};
use crate::words::{count, some};

pub(crate) async fn run(context: &Context<'_>, command: &Log) -> Result<()> {
    match command {
        Log::Init(args) => init(context, args).await,
        Log::Verify(args) => verify::run(context, args).await,
        Log::Sign(args) => context.with_keys(context.policy()?, async |enfold| sign(context, args, enfold).await).await,
        Log::Export(args) => {
            context.with_keys(context.policy()?, async |enfold| export(context, args, enfold).await).await
        }
        Log::Prune(args) => {
            context.with_keys(context.policy()?, async |enfold| prune::run(context, args, enfold).await).await
        }
        Log::Opened(args) => {
            context.with_keys(context.policy()?, async |enfold| opened::run(context, args, enfold).await).await
        }
    }
}

/// A process that has the key signs, and most should not have it: so the policy is not told where it is.
async fn init(context: &Context<'_>, args: &InitLog) -> Result<()> {
    // Says what is wrong with the policy, before there is a key that nothing believes.
    let policy = context.policy()?;
    if let Some(uri) = policy.events.signing_key.clone() {
        let newest = context.with_keys(policy, async |enfold| enfold.log_key_in_service().await).await?;
        let public = newest.ok_or_else(|| Error::new(Code::Internal, "the policy lost its signing key"))?;
        edit::add_log_key(&context.global.config, &public)?;
        let public = format_operator_key(&public);
        return context.screen.result(&json!({ "signing_key": uri.to_string(), "log_key": public }), |out| {
            out.push_str(&format!("The policy believes what the newest version of `{uri}` signs: {public}\n"));
        });
    }
    let key = LogKey::init(&args.key_file)?;
    edit::add_log_key(&context.global.config, &key.public_key())?;
    let (file, public) = (args.key_file.display(), format_operator_key(&key.public_key()));
    context.screen.result(&json!({ "key_file": args.key_file, "log_key": public }), |out| {
        out.push_str(&format!("The key is in `{file}`; the policy believes what it signs: {public}\n"));
        out.push_str("Keep the file where the log is signed, and away from whoever can write to the catalog.\n\n");
        out.push_str(&format!(
            "Next: ENFOLD_EVENTS_SIGNING_KEY_FILE={file} enfold worker, or enfold log sign --key-file {file} now and then\n"
        ));
    })
}

async fn sign(context: &Context<'_>, args: &SignLog, enfold: &Enfold) -> Result<()> {
    let key = signer(args.key_file.as_deref(), enfold).await?;
    let signed = enfold.sign_log(&*key).await?;
    let about = signed.as_ref().and_then(SignedCheckpoint::read);
    let chains = about.map_or(0, |checkpoint| checkpoint.heads.len());
    context.screen.result(&json!({ "checkpoint": signed, "chains": chains }), |out| {
        out.push_str(&match &signed {
            Some(signed) => {
                format!("Checkpoint {} is signed, over {}.\n", signed.number, some(chains, "chain that came further"))
            }
            None => "Nothing was added since the last checkpoint.\n".to_owned(),
        });
    })
}

/// The key that signs the log: in this file, or where the policy says.
async fn signer(file: Option<&Path>, enfold: &Enfold) -> Result<Box<dyn Signer>> {
    if let Some(file) = file {
        return Ok(Box::new(LogKey::load(file)?));
    }
    enfold.log_signer().await?.ok_or_else(|| {
        Error::new(Code::LogKeyMissing, "nothing says which key signs the log")
            .hint("name its file: `--key-file FILE`, or `events.signing_key_file` in enfold.toml")
            .hint("`enfold log init` makes one")
    })
}

async fn export(context: &Context<'_>, args: &ExportLog, enfold: &Enfold) -> Result<()> {
    let Some(path) = &args.out else {
        let mut out = BufWriter::new(std::io::stdout());
        let lines = write(enfold, &mut out).await?;
        return lines.map(drop).map_err(|error| cannot_write(Path::new("standard output"), &error));
    };
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let file = file.map_err(|error| cannot_write(path, &error))?;
    let mut out = BufWriter::new(file);
    let written = write(enfold, &mut out).await?;
    let lines = written.and_then(|lines| out.get_ref().sync_all().map(|()| lines));
    let lines = lines.map_err(|error| cannot_write(path, &error))?;
    context.screen.result(&json!({ "file": path, "lines": lines }), |out| {
        out.push_str(&format!("{} lines of the log are in `{}`\n", count(lines), path.display()));
    })
}

/// The inner result is the file's.
async fn write(enfold: &Enfold, out: &mut (impl Write + Send)) -> Result<std::io::Result<u64>> {
    let mut lines = Ok(0);
    let mut take = |line: &str| {
        if let Ok(so_far) = &lines {
            lines = writeln!(out, "{line}").map(|()| so_far + 1);
        }
    };
    // What this process itself did is in it.
    enfold.flush().await?;
    enfold.export_log(&mut take).await?;
    Ok(lines.and_then(|lines| out.flush().map(|()| lines)))
}

fn cannot_write(path: &Path, error: &std::io::Error) -> Error {
    Error::new(Code::FileFailed, format!("cannot write the log to `{}`", path.display())).cause(io_fact(error))
}
