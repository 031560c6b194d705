//! Rows of data keys, made ready to be shown.

use enfold_core::KeyId;

use super::KeyRing;
use crate::Result;
use crate::catalog::DataKeyRow;
use crate::data_keys::{DataKeyRecord, WrapRecord};
use crate::kms::made_by;

impl KeyRing {
    pub(crate) async fn records(&self, after: Option<KeyId>, limit: u32) -> Result<Vec<DataKeyRecord>> {
        let rows = self.catalog.keys(self.id(), after, limit).await?;
        let mut records = Vec::with_capacity(rows.len());
        for row in &rows {
            records.push(self.record(row).await?);
        }
        Ok(records)
    }

    pub(crate) async fn record(&self, row: &DataKeyRow) -> Result<DataKeyRecord> {
        let view = self.view().await?;
        let (status, refused) = match self.believe_now(&view, row).await {
            Ok((_, status)) => (status, None),
            Err(error) => (row.status, Some(error)),
        };
        let wrap = |wrap: &crate::catalog::Wrap| WrapRecord {
            root: wrap.root.clone(),
            made_by: wrap.root.parse().ok().and_then(|root| made_by(&root, &wrap.wrapped)),
        };
        Ok(DataKeyRecord {
            id: row.id,
            ring: self.name.clone(),
            purpose: row.purpose,
            scope: row.scope.clone(),
            version: row.version,
            status,
            created_ms: row.created_ms,
            wraps: row.wraps.iter().map(wrap).collect(),
            customer: row.customer.as_ref().map(|layer| layer.root.clone()),
            refused,
        })
    }
}
