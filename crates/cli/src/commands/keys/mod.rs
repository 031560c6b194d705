//! `enfold keys`: the data keys, and what they hang on. A file for each thing that is done with them.

mod customers;
mod emergency;
mod rotate;
mod switch;
mod uses;
mod wraps;

use enfold::Result;

use super::Context;
use crate::args::Keys;

pub(crate) async fn run(context: &Context<'_>, args: &Keys) -> Result<()> {
    // Its jobs are in the policy's database.
    if let Keys::Rotate(args) = args
        && args.reencrypt
    {
        return rotate::and_reencrypt(context, args).await;
    }
    if let Keys::Rotate(args) = args
        && args.emergency
    {
        return emergency::run(context, args).await;
    }
    if let Keys::Disable(args) = args
        && !args.kill_switch
    {
        return switch::when_unneeded(context, args).await;
    }
    let policy = context.policy()?;
    match args {
        Keys::Wraps(args) => context.with_keys(policy, async |enfold| wraps::wraps(context, args, enfold).await).await,
        Keys::Customers(args) => {
            context.with_keys(policy, async |enfold| customers::customers(context, args, enfold).await).await
        }
        Keys::Rotate(args) => context.with_keys(policy, async |enfold| rotate::run(context, args, enfold).await).await,
        Keys::Disable(args) => {
            context.with_keys(policy, async |enfold| switch::kill(context, args, enfold).await).await
        }
        Keys::Uses(args) => context.with_keys(policy, async |enfold| uses::run(context, args, enfold).await).await,
        Keys::Enable(args) => context.with_keys(policy, async |enfold| switch::on(context, args, enfold).await).await,
    }
}
