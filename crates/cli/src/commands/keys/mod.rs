//! `enfold keys`: the data keys, and what they hang on. A file for each thing that is done with them.

mod customers;
mod wraps;

use enfold::Result;

use super::Context;
use crate::args::Keys;

pub(crate) async fn run(context: &Context<'_>, args: &Keys) -> Result<()> {
    let policy = context.policy()?;
    match args {
        Keys::Wraps(args) => context.with_keys(policy, async |enfold| wraps::wraps(context, args, enfold).await).await,
        Keys::Customers(args) => {
            context.with_keys(policy, async |enfold| customers::customers(context, args, enfold).await).await
        }
    }
}
