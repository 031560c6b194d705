//! [`Keys`] over an open [`Enfold`]: the signed states of its rings, its registered applications, its columns.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use enfold::events::Event;
use enfold::policy::Mode;
use enfold::{
    Beside, CallContext, Code, Column, Enfold, Error, Form, IndexRequest, KeyId, Leaving, OpenRequest, PayloadType,
    Result, SealRequest,
};
use zeroize::Zeroizing;

use super::keys::{Keys, Reader};
use crate::codec::Codec;
use crate::columns::{CellItem, Cells, ColumnCodec, IndexItem, Place, Protected};
use crate::model::TargetIndex;

/// Applications that gave no sign of life for so long are gone.
const READERS_SEEN: u32 = 15 * 60;

/// The keys of a policy, as jobs use them.
pub struct PolicyKeys {
    enfold: Enfold,
    context: CallContext,
    codec: ColumnCodec,
}

impl PolicyKeys {
    /// `context` says who converts and why; it goes with every seal and open into the log.
    pub fn new(enfold: Enfold, context: &CallContext) -> Result<Self> {
        let mut columns = BTreeMap::new();
        for (table_name, table) in &enfold.policy().tables {
            for (column_name, policy) in &table.columns {
                let name = format!("{table_name}.{column_name}");
                let cells = PolicyCells {
                    enfold: enfold.clone(),
                    column: enfold.column(&name)?.for_conversion(),
                    table: table_name.clone(),
                    context: context.clone(),
                    versions: Mutex::default(),
                };
                columns.insert(name, Protected { cells: Arc::new(cells), lookalikes: policy.lookalikes });
            }
        }
        Ok(Self { enfold, context: context.clone(), codec: ColumnCodec::new(columns) })
    }
}

#[async_trait]
impl Keys for PolicyKeys {
    async fn modes(&self, columns: &[String]) -> Result<Vec<Mode>> {
        let mut modes = Vec::with_capacity(columns.len());
        for column in columns {
            modes.push(self.enfold.column(column)?.mode().await?);
        }
        Ok(modes)
    }

    async fn set_modes(&self, columns: &[(String, Mode)]) -> Result<()> {
        let changes: Vec<(&str, Mode)> = columns.iter().map(|(name, mode)| (name.as_str(), *mode)).collect();
        self.enfold.operator()?.set_modes(&changes).await
    }

    async fn readers(&self) -> Result<Vec<Reader>> {
        let applications = self.enfold.applications(READERS_SEEN).await?;
        let reader = |a: enfold::catalog::Application| Reader {
            name: a.name,
            version: a.version,
            columns: a.columns,
            ready: a.ready,
        };
        Ok(applications.into_iter().map(reader).collect())
    }

    async fn rotate_due(&self, now_ms: i64) -> Result<Vec<String>> {
        // A worker without the key may well stand beside one that has it; `status` says what stays due.
        if !self.enfold.has_operator_key() {
            return Ok(Vec::new());
        }
        let context = CallContext::new("schedule", "due by the policy's cadence");
        match self.enfold.operator()?.rotate_due(now_ms, &context).await {
            Ok(rotated) => Ok(rotated.into_iter().map(|(ring, _)| ring).collect()),
            // Another worker was quicker: what it has left is seen at the next look.
            Err(error) if error.code() == Code::Busy => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    fn enfold(&self) -> Option<&Enfold> {
        Some(&self.enfold)
    }

    fn log(&self, event: Event) {
        self.enfold.log(event.context(&self.context));
    }

    async fn rotate_due_roots(&self, now_ms: i64, go_on: &(dyn Fn() -> bool + Sync)) -> Result<Vec<String>> {
        if !self.enfold.has_operator_key() {
            return Ok(Vec::new());
        }
        let context = CallContext::new("schedule", "due by the policy's cadence");
        let seen_to = self.enfold.operator()?.rotate_due_roots(now_ms, &context, &|_| go_on()).await?;
        let (mut done, mut failed) = (Vec::new(), None);
        for (root, outcome) in seen_to {
            match outcome {
                Ok(_) => done.push(root),
                // The others are seen to all the same.
                Err(error) => {
                    let doing = format!("cannot rotate the root key `{root}`, which is due");
                    failed.get_or_insert(error.while_doing(doing));
                }
            }
        }
        failed.map_or(Ok(done), Err)
    }

    fn codec(&self) -> &dyn Codec {
        &self.codec
    }
}

/// One column of the policy, for conversion: it seals whatever the signed mode is.
struct PolicyCells {
    enfold: Enfold,
    column: Column,
    table: String,
    context: CallContext,
    /// Of data keys that were looked up: they never change.
    versions: Mutex<HashMap<KeyId, u32>>,
}

#[async_trait]
impl Cells for PolicyCells {
    async fn seal_many(&self, form: Form, payload: PayloadType, items: &[CellItem<'_>]) -> Vec<Result<Vec<u8>>> {
        let requests: Vec<SealRequest<'_>> = items.iter().map(|item| seal_request(item, form, payload)).collect();
        self.column.seal_many(&self.context, &requests).await
    }

    async fn write_back_many(&self, reader: &str, form: Form, items: &[CellItem<'_>]) -> Vec<Result<Vec<u8>>> {
        // What a value is inside of its envelope another product's format does not say.
        let requests: Vec<SealRequest<'_>> =
            items.iter().map(|item| seal_request(item, form, PayloadType::Bytes)).collect();
        self.column.write_back_many(&self.context, reader, &requests).await
    }

    fn reader_of(&self, form: Form, stored: &[u8], beside: Beside<'_>) -> Option<&str> {
        self.column.reader_of(form, stored, beside)
    }

    async fn open_many(&self, form: Form, items: &[CellItem<'_>]) -> Vec<Result<Zeroizing<Vec<u8>>>> {
        let requests: Vec<OpenRequest<'_>> = items.iter().map(|item| open_request(item, form)).collect();
        let opened = self.column.open_many(&self.context, &requests).await;
        opened.into_iter().map(|result| result.map(|opened| opened.value)).collect()
    }

    async fn former_keys(&self, leaving: &Leaving) -> Result<Arc<HashSet<KeyId>>> {
        self.column.former_keys(leaving).await
    }

    async fn version_of(&self, key: KeyId) -> Result<u32> {
        let known = |versions: &Mutex<HashMap<KeyId, u32>>| {
            versions.lock().unwrap_or_else(PoisonError::into_inner).get(&key).copied()
        };
        if let Some(version) = known(&self.versions) {
            return Ok(version);
        }
        let missing = || Error::new(Code::KeyNotFound, format!("data key `{key}` is not in the catalog"));
        let version = self.enfold.data_key(key).await?.ok_or_else(missing)?.version;
        self.versions.lock().unwrap_or_else(PoisonError::into_inner).insert(key, version);
        Ok(version)
    }

    async fn index_many(&self, index: &TargetIndex, items: &[IndexItem<'_>]) -> Vec<Result<Vec<Vec<u8>>>> {
        // Of the column itself, or of several columns of its table.
        let handle = self.column.blind_index(&index.name).or_else(|_| self.enfold.index(&self.table, &index.name));
        let handle = match handle {
            Ok(handle) => handle,
            Err(error) => return items.iter().map(|_| Err(error.clone())).collect(),
        };
        let texts: Vec<Result<Vec<&str>>> = items.iter().map(|item| texts(&index.name, &item.values)).collect();
        let good = texts.iter().zip(items).filter_map(|(texts, item)| texts.as_ref().ok().map(|t| (t, item)));
        let requests: Vec<IndexRequest<'_>> =
            good.map(|(values, item)| IndexRequest { place: place(item.place), values }).collect();
        let computed = match index.generation {
            None => handle.lookup_many(&self.context, &requests).await,
            Some(generation) => handle.of_generation_many(&self.context, generation, &requests).await,
        };
        let mut computed = computed.into_iter();
        let missing = || Err(Error::new(Code::Internal, "a blind index had no result"));
        texts
            .iter()
            .map(|texts| match texts {
                Ok(_) => computed.next().unwrap_or_else(missing),
                Err(error) => Err(error.clone()),
            })
            .collect()
    }
}

fn seal_request<'a>(item: &CellItem<'a>, form: Form, payload: PayloadType) -> SealRequest<'a> {
    SealRequest { place: place(item.place), form, payload, value: item.bytes }
}

fn open_request<'a>(item: &CellItem<'a>, form: Form) -> OpenRequest<'a> {
    OpenRequest { place: place(item.place), form, stored: item.bytes, beside: item.beside }
}

fn place(place: Place<'_>) -> enfold::Place<'_> {
    enfold::Place { tenant: place.tenant, row: place.row }
}

/// Blind indexes are over text.
fn texts<'a>(index: &str, values: &[&'a [u8]]) -> Result<Vec<&'a str>> {
    let text = |value: &&'a [u8]| {
        std::str::from_utf8(value)
            .map_err(|_| Error::new(Code::ValueInvalid, format!("cannot compute the blind index `{index}`")))
    };
    values.iter().map(text).collect()
}
