//! `enfold keys import`: the record of a root key, from what `enfold keys show --json` printed of it.

use enfold::catalog::RootAbout;
use enfold::{Code, Enfold, Error, Result, RootProof};
use serde::Deserialize;
use serde_json::json;

use super::{from_hex, look_again};
use crate::args::ImportKey;
use crate::commands::{Context, io_fact};

/// What is taken of the description; the rest of it is known better elsewhere.
#[derive(Deserialize)]
struct Description {
    kind: String,
    id: String,
    uri: String,
    alias: Option<String>,
    arn: Option<String>,
    description: Option<String>,
    rotated: Option<jiff::Timestamp>,
    proofs: Vec<Proof>,
}

#[derive(Deserialize)]
struct Proof {
    ring: String,
    mac: String,
}

pub(super) async fn import(context: &Context<'_>, args: &ImportKey, enfold: &Enfold) -> Result<()> {
    let shown = args.file.display();
    let text = std::fs::read_to_string(&args.file).map_err(|error| {
        Error::new(Code::FileFailed, format!("cannot read the description `{shown}`")).cause(io_fact(&error))
    })?;
    let unclear = |why: &str| {
        Error::new(Code::Usage, format!("cannot make sense of the description `{shown}`"))
            .cause(why.to_owned())
            .hint("what is wanted is what `enfold keys show URI --json` printed of a root key")
            .hint("nothing was changed")
    };
    let said: Description = serde_json::from_str(&text).map_err(|_| unclear("it is no description of a root key"))?;
    if said.kind != "root" {
        return Err(unclear("it describes something else than a root key"));
    }
    let proofs = said.proofs.iter().map(|proof| {
        let mac = from_hex(&proof.mac).ok_or_else(|| unclear("a proof in it is not hexadecimal"))?;
        Ok(RootProof { ring: proof.ring.clone(), mac })
    });
    let proofs = proofs.collect::<Result<Vec<_>>>()?;
    let about = RootAbout {
        alias: said.alias,
        description: said.description,
        resolved: said.arn,
        rotated_ms: said.rotated.map(jiff::Timestamp::as_millisecond),
        ..RootAbout::default()
    };
    let id = super::key_id(&said.id)?;
    let root = enfold.restore_root(&said.uri, id, &about, &proofs, &context.call(None)).await?;
    let published = look_again(enfold).await?;
    let document = json!({
        "id": root.id.to_string(),
        "other_ids": root.other_ids.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "uri": root.uri,
        "published": published,
    });
    context.screen.result(&document, |out| {
        out.push_str(&format!("`{}` has the id {} again.\n", root.uri, root.id));
        for other in &root.other_ids {
            out.push_str(&format!("What came under the id {other} since opens as well.\n"));
        }
        out.push_str(super::when(published));
    })
}
