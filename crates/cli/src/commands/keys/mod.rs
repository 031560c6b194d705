//! `enfold keys`: the data keys, and what they hang on. A file for each thing that is done with them.

mod customers;
mod destroy;
mod emergency;
mod import;
mod list;
mod minimum;
mod prices;
mod rewrap;
mod roots;
mod rotate;
mod show;
mod switch;
mod uses;
mod wraps;

use enfold::{Code, Enfold, Error, KeyId, Result};

use super::Context;
use crate::args::Keys;

pub(crate) async fn run(context: &Context<'_>, args: &Keys) -> Result<()> {
    match args {
        // These need the policy's database too: jobs and values are there.
        Keys::Rotate(args) if args.reencrypt || args.indexes => rotate::and_more(context, args).await,
        Keys::Rotate(args) if args.emergency => emergency::run(context, args).await,
        Keys::Disable(args) if !args.kill_switch => switch::when_unneeded(context, args).await,
        Keys::Enable(args) => switch::on(context, args).await,
        Keys::SetMinimum(args) => minimum::run(context, args).await,
        Keys::Destroy(args) => destroy::run(context, args).await,
        Keys::VerifyCertificate(args) => destroy::verify(context, args),
        _ => with_keys(context, args).await,
    }
}

async fn with_keys(context: &Context<'_>, args: &Keys) -> Result<()> {
    let policy = context.policy()?;
    let policy = if let Keys::Rewrap(args) = args { rewrap::paced(policy, args) } else { policy };
    let work = async |enfold: &Enfold| match args {
        Keys::Wraps(args) => wraps::wraps(context, args, enfold).await,
        Keys::Customers(args) => customers::customers(context, args, enfold).await,
        Keys::List(args) => list::list(context, args, enfold).await,
        Keys::Show(args) => show::show(context, args, enfold).await,
        Keys::Register(args) => roots::register(context, args, enfold).await,
        Keys::Import(args) => import::import(context, args, enfold).await,
        Keys::Refresh => roots::refresh(context, enfold).await,
        Keys::SetRoot(args) => roots::set_root(context, args, enfold).await,
        Keys::RotateRoot(args) => roots::rotate_root(context, args, enfold).await,
        Keys::Rewrap(args) => rewrap::rewrap(context, args, enfold).await,
        Keys::Rotate(args) => rotate::run(context, args, enfold).await,
        Keys::Disable(args) => switch::kill(context, args, enfold).await,
        Keys::Enable(args) => switch::on(context, args).await,
        Keys::SetMinimum(args) => minimum::run(context, args).await,
        Keys::Destroy(args) => destroy::run(context, args).await,
        Keys::VerifyCertificate(args) => destroy::verify(context, args),
        Keys::Uses(args) => uses::run(context, args, enfold).await,
    };
    context.with_keys(policy, work).await
}

/// Has every running process look at its keys again at once, where the operators' key is; whether it was.
async fn look_again(enfold: &Enfold) -> Result<bool> {
    let operator = match enfold.operator() {
        Err(error) if error.code() == Code::OperatorKeyMissing => return Ok(false),
        operator => operator?,
    };
    for ring in enfold.policy().rings.keys() {
        operator.refresh(ring).await?;
    }
    Ok(true)
}

/// What [`look_again`] came to, in words.
fn when(published: bool) -> &'static str {
    match published {
        true => "Published: every running process takes it in within a second.\n",
        false => {
            "The operators' key is not here, so nothing was published: running processes take it in within half a minute.\n"
        }
    }
}

pub(super) fn key_id(text: &str) -> Result<KeyId> {
    text.parse().map_err(|_| {
        Error::new(Code::Usage, format!("`{text}` is not the id of a data key"))
            .cause("it has 32 lower-case hexadecimal digits")
            .hint("`enfold keys list` shows ids; `enfold inspect` that of a value, `enfold audit --json` those of a column")
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let pairs = text.as_bytes().as_chunks::<2>();
    let byte = |pair: &[u8; 2]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    if pairs.1.is_empty() { pairs.0.iter().map(byte).collect() } else { None }
}
