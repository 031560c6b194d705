//! Blind indexes as people look at them: which generations live, and by which rules.

use crate::column::Index;
use crate::keyring::index_id;
use crate::state::{IndexRules, IndexState};
use crate::{Code, Enfold, Error, Result};

/// What is in force of a blind index.
#[derive(Clone, Debug)]
pub struct IndexStanding {
    /// The policy's name of its column or, if it covers several, of its table.
    pub owner: String,
    pub name: String,
    /// The policy's name of the ring whose key service its keys need.
    pub ring: String,
    /// The generation in its column.
    pub now: IndexRules,
    /// The one that is to take over.
    pub next: Option<IndexRules>,
    /// The latest generation that ever was.
    pub latest: u16,
    /// By the policy's rules as they are now, for the generation that is to come.
    pub policy_bits: u16,
    /// Whether the rules were signed; otherwise they are the policy's, whatever it will say.
    pub signed: bool,
    /// The policy says the same as what holds now, or is to.
    pub as_in_policy: bool,
}

impl IndexStanding {
    /// `public.users.email.eq`.
    pub fn full_name(&self) -> String {
        format!("{}.{}", self.owner, self.name)
    }
}

impl Enfold {
    /// Every blind index of the policy, in the order of their names.
    pub async fn indexes(&self) -> Result<Vec<IndexStanding>> {
        let mut all = Vec::new();
        for (table_name, table) in &self.policy().tables {
            for (column_name, column) in &table.columns {
                for name in column.indexes.keys() {
                    all.push(self.index_standing(&format!("{table_name}.{column_name}"), name).await?);
                }
            }
            for name in table.indexes.keys() {
                all.push(self.index_standing(table_name, name).await?);
            }
        }
        Ok(all)
    }

    /// As [`Self::indexes`], one: of a column by the column's name and its own, of several columns by the table's.
    pub async fn index_standing(&self, owner: &str, name: &str) -> Result<IndexStanding> {
        let index = self.index(owner, name)?;
        let ring = &index.seat().ring;
        let policy = index.policy_spec();
        let view = ring.view().await?;
        let signed = view.state.indexes.get(&index_id(&policy.column_ids, &policy.name)).cloned();
        let is_signed = signed.is_some();
        let IndexState { now, next, latest } = signed.unwrap_or_else(|| IndexState::first(policy));
        Ok(IndexStanding {
            owner: owner.to_owned(),
            name: name.to_owned(),
            ring: ring.name.clone(),
            signed: is_signed,
            as_in_policy: next.as_ref().unwrap_or(&now).is(policy),
            now,
            next,
            latest,
            policy_bits: policy.bits,
        })
    }

    /// The blind index that a person named: `table.column.index`, `table.index` or, where a column has one only,
    /// `table.column`.
    pub fn index_named(&self, name: &str) -> Result<(String, String)> {
        if let Some((_, column)) = self.policy().column(name)
            && let [only] = &column.indexes.keys().collect::<Vec<_>>()[..]
        {
            return Ok((name.to_owned(), (*only).clone()));
        }
        let named = name.rsplit_once('.').filter(|(owner, index)| self.index(owner, index).is_ok());
        named.map(|(owner, index)| (owner.to_owned(), index.to_owned())).ok_or_else(|| {
            Error::new(Code::UnknownColumn, format!("the policy has no blind index `{name}`"))
                .hint("an index is named `table.column.index`, or `table.index` if it covers several columns")
                .hint("`enfold index list` shows all of them")
        })
    }
}

impl Index {
    /// By which the signed states know it.
    pub(crate) fn id(&self) -> String {
        index_id(&self.policy_spec().column_ids, &self.policy_spec().name)
    }
}
