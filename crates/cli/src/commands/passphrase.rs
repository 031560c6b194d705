//! `enfold passphrase`: seals the file of a local root key under another passphrase.

use enfold::kms::{Kdf, KeyUri, LocalKms, PassphraseSource};
use enfold::policy::RingPolicy;
use enfold::{Code, Error, Result};
use serde_json::json;

use super::Context;
use crate::args::Passphrase;

/// Where the new passphrase is, if no file was named.
const NEW_VARIABLE: &str = "ENFOLD_NEW_LOCAL_PASSPHRASE";

pub(crate) fn run(context: &Context<'_>, args: &Passphrase) -> Result<()> {
    let policy = context.policy()?;
    let uri: KeyUri = args.root.parse()?;
    if !policy.rings.values().flat_map(RingPolicy::root_keys).any(|root| root == uri.as_str()) {
        return Err(Error::new(Code::Usage, format!("`{uri}` is not a root key of the policy"))
            .hint("name it as in `roots` of its ring")
            .hint("nothing was changed"));
    }
    let new = match &args.new_file {
        Some(path) => PassphraseSource::File(path.clone()),
        None => PassphraseSource::Variable(NEW_VARIABLE.to_owned()),
    };
    let unchanged = |error: Error| error.hint("nothing was changed");
    let now = policy.key_services.local.get(&uri);
    let key = match now {
        None => LocalKms::open(&uri, policy.folder()),
        Some(source) => source.read().and_then(|old| LocalKms::open_sealed(&uri, policy.folder(), &old)),
    };
    let key = key.map_err(unchanged)?;
    let passphrase = new.read().and_then(enfold::kms::Passphrase::good_for_new_keys).map_err(unchanged)?;
    key.seal_again(&passphrase, Kdf::default())?;

    let file = uri.as_str().trim_start_matches("local:").to_owned();
    let next = match now {
        None => format!("Next: add `[key_services.local.\"{file}\"]` to the policy: it says that the key is sealed."),
        Some(PassphraseSource::File(path)) => format!("Next: put the new passphrase into `{}`.", path.display()),
        Some(PassphraseSource::Variable(name)) => format!("Next: set `{name}` to the new passphrase."),
    };
    context.screen.result(&json!({ "root": uri, "sealed": true }), |out| {
        out.push_str(&format!("Sealed `{uri}` under the new passphrase. The root key is the same.\n"));
        out.push_str("Copies of the old file still open under what they were sealed under: destroy them.\n");
        out.push_str(&format!("\n{next}\n"));
    })
}
