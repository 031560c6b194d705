//! Doing it, a batch of data keys at a time.

use std::sync::Arc;

use enfold_core::KeyId;
use futures_util::stream::{self, StreamExt};

use super::layer::CUSTOMERS_AT_ONCE;
use super::{AT_ONCE, Aim, BATCH, Need, RewrapOptions};
use crate::catalog::{CustomerLayer, DataKeyRow, KeyStatus, Swap, Wrap};
use crate::error::Retry;
use crate::events::{CallContext, Event, EventKind};
use crate::keyring::roots::{self, Wanted, is_same, opens_to_another};
use crate::keyring::{KeyRing, View};
use crate::kms::{EncryptionContext, KeyMaterial, UnwrapRequest, WrapRequest, WrappedKey};
use crate::{Code, Error, Result};

/// Rows in one question to the catalog: as many as are worked on at once.
const PAGE: u32 = 600;
const _: () = assert!(PAGE as usize == BATCH * AT_ONCE);
/// Failures that are kept to be told.
const TOLD: usize = 100;

/// What a rewrap has done so far.
#[derive(Clone, Debug, Default)]
pub struct Rewrapped {
    /// Data keys that were looked at.
    pub looked: u64,
    /// Those that have other wraps now.
    pub done: u64,
    /// New wraps, and wraps that were removed.
    pub wrapped: u64,
    pub dropped: u64,
    /// Layers of customers that were made anew.
    pub layers: u64,
    /// Data keys that somebody else changed meanwhile: another worker has done them, or the next run does.
    pub overtaken: u64,
    /// Data keys that stay as they are, or whose customer's layer does, and why for the first hundred.
    pub failed: u64,
    pub failures: Vec<(KeyId, Error)>,
    /// Why it ended before the last data key: a key service that answers nothing, or whoever watches.
    pub stopped: Option<Error>,
    /// The last data key before which everything was looked at, where it goes by their order.
    pub at: Option<KeyId>,
}

/// A data key on its way.
struct Item<'a> {
    row: DataKeyRow,
    need: Need<'a>,
    context: EncryptionContext,
    view: Arc<View>,
    /// The data key, or our layer key where it has a customer's layer.
    key: Option<KeyMaterial>,
    made: Vec<(usize, WrappedKey)>,
    failed: Option<Error>,
    /// The customer's layer that was made, or why it stays as it is.
    layer: Option<Result<CustomerLayer>>,
}

/// What was made for a data key.
#[derive(Default)]
struct Made {
    wrapped: u64,
    dropped: u64,
    layers: u64,
}

impl KeyRing {
    /// See the head of `rewrap`. `go_on` is asked after each few batches, and told what was done.
    pub(crate) async fn rewrap(
        &self,
        options: &RewrapOptions,
        context: &CallContext,
        go_on: &(dyn Fn(&Rewrapped) -> bool + Sync),
    ) -> Result<Rewrapped> {
        let aim = self.aim(options).await?;
        let mut so_far = Rewrapped::default();
        for (mut after, end) in walk(options)? {
            loop {
                let mut page = self.catalog.keys(self.id(), after, PAGE).await?;
                let full = page.len() == PAGE as usize;
                page.retain(|row| end.is_none_or(|end| row.id <= end));
                let Some(last) = page.last().map(|row| row.id) else { break };
                let going = self.rewrap_page(&aim, page, &mut so_far).await?;
                // What failed with its service is not behind us.
                after = if going { Some(last) } else { after };
                if options.after.is_some() || options.renew {
                    so_far.at = after;
                }
                if !going || !go_on(&so_far) {
                    let interrupted = || Error::new(Code::Interrupted, "the rewrap was interrupted");
                    so_far.stopped.get_or_insert_with(interrupted);
                    self.tell(&so_far, context);
                    return Ok(so_far);
                }
                if !full {
                    break;
                }
            }
        }
        self.tell(&so_far, context);
        Ok(so_far)
    }

    fn tell(&self, so_far: &Rewrapped, context: &CallContext) {
        if so_far.done > 0 {
            self.events.emit(Event::new(EventKind::KeysRewrapped, so_far.done).ring(self.id()).context(context));
        }
    }

    /// Whether to go on.
    async fn rewrap_page(&self, aim: &Aim<'_>, page: Vec<DataKeyRow>, so_far: &mut Rewrapped) -> Result<bool> {
        so_far.looked += page.iter().filter(|row| row.status != KeyStatus::Destroyed).count() as u64;
        let view = self.view().await?;
        let mut items = Vec::with_capacity(page.len());
        for row in page {
            let Some(need) = self.need(aim, &view, &row) else { continue };
            // Only a row that is as it was made is authenticated anew.
            let believed = self.believe_now(&view, &row).await.and_then(|(view, _)| Ok((self.context(&row)?, view)));
            match believed {
                Ok((context, view)) => {
                    items.push(Item {
                        row,
                        need,
                        context,
                        view,
                        key: None,
                        made: Vec::new(),
                        failed: None,
                        layer: None,
                    });
                }
                Err(error) => so_far.fail(row.id, self.refuse(error)),
            }
        }
        let mut batches = Vec::with_capacity(AT_ONCE);
        while !items.is_empty() {
            let rest = items.split_off(items.len().min(BATCH));
            batches.push(std::mem::replace(&mut items, rest));
        }
        let work: Vec<_> = batches.into_iter().map(|batch| self.rewrap_batch(aim, batch)).collect();
        let done: Vec<_> = stream::iter(work).buffer_unordered(AT_ONCE).collect().await;
        let mut going = true;
        for batch in done {
            going &= so_far.take(batch?);
        }
        Ok(going)
    }

    async fn rewrap_batch(&self, aim: &Aim<'_>, mut batch: Vec<Item<'_>>) -> Result<Rewrapped> {
        self.take_keys(aim, &mut batch).await;
        for at in 0..aim.targets.len() {
            wrap(aim, at, &mut batch).await;
            check(aim, at, &mut batch).await;
        }
        self.renew_layers(&mut batch).await;
        let mut outcome = Rewrapped::default();
        let (mut swaps, mut counts) = (Vec::with_capacity(batch.len()), Vec::with_capacity(batch.len()));
        let mut of_a_service = None;
        for mut item in batch {
            let id = item.row.id;
            // A customer's service that is out keeps nobody but its tenant from what is to be done.
            if let Some(Err(error)) = item.layer.take_if(|layer| layer.is_err()) {
                outcome.fail(id, self.refuse(error));
                if item.need.is_layer_alone() {
                    continue;
                }
            }
            match item.swap(aim) {
                Ok((swap, made)) => {
                    swaps.push(swap);
                    counts.push(made);
                }
                Err(error) => {
                    of_a_service = of_a_service.or_else(|| Some(error.clone()).filter(is_of_the_service));
                    outcome.fail(id, error);
                }
            }
        }
        if swaps.is_empty() {
            outcome.stopped = of_a_service;
            return Ok(outcome);
        }
        for (written, made) in self.write(&swaps, &counts).await?.into_iter().zip(counts) {
            if written {
                outcome.done += 1;
                outcome.wrapped += made.wrapped;
                outcome.dropped += made.dropped;
                outcome.layers += made.layers;
            } else {
                outcome.overtaken += 1;
            }
        }
        Ok(outcome)
    }

    async fn renew_layers(&self, batch: &mut [Item<'_>]) {
        let mut due = Vec::new();
        for (at, item) in batch.iter().enumerate().filter(|(_, item)| item.failed.is_none()) {
            if let (Some(target), Some(layer), Some(key)) = (item.need.layer, &item.row.customer, &item.key) {
                due.push(async move { (at, self.renew_layer(&item.row, layer, key, target).await) });
            }
        }
        let renewed: Vec<_> = stream::iter(due).buffer_unordered(CUSTOMERS_AT_ONCE).collect().await;
        for (at, layer) in renewed {
            batch[at].layer = Some(layer);
        }
    }

    /// Where layers are among them, by the state that holds now, and only if their root keys are still those that it names: no
    /// data key comes back under one that was signed away.
    async fn write(&self, swaps: &[Swap], made: &[Made]) -> Result<Vec<bool>> {
        if made.iter().all(|made| made.layers == 0) {
            return self.catalog.swap_wraps(self.id(), swaps, None).await;
        }
        self.look().await?;
        let view = self.view().await?;
        let holds = |(swap, made): (&Swap, &Made)| {
            let signed = self.customer_of(&view, &swap.key.scope).ok().flatten();
            let layer = swap.key.customer.as_ref().map(|layer| layer.root.as_str());
            made.layers == 0 || signed.map(|kms| kms.uri().as_str()) == layer
        };
        if !swaps.iter().zip(made).all(holds) {
            return Ok(vec![false; swaps.len()]);
        }
        match self.catalog.swap_wraps(self.id(), swaps, Some(view.state.epoch)).await {
            Err(error) if error.code() == Code::Busy => Ok(vec![false; swaps.len()]),
            written => written,
        }
    }

    /// The data keys, from wraps that go where some do, and otherwise from any. What a wrap that goes does not give is asked
    /// of the others: its root key may be out of reach for ever, and each wrap that stays is opened all the same.
    async fn take_keys(&self, aim: &Aim<'_>, batch: &mut [Item<'_>]) {
        let sources: Vec<Vec<Wrap>> = batch.iter().map(|item| aim.sources(&item.need, &item.row)).collect();
        let wanted: Vec<_> =
            batch.iter().zip(&sources).map(|(item, wraps)| Wanted { wraps, context: &item.context }).collect();
        let mut keys = self.roots.unwrap_many(&wanted).await;
        let again: Vec<usize> = (0..batch.len())
            .filter(|at| keys[*at].is_err() && sources[*at].len() < batch[*at].row.wraps.len())
            .collect();
        if !again.is_empty() {
            let wanted = again.iter().map(|at| Wanted { wraps: &batch[*at].row.wraps, context: &batch[*at].context });
            let found = self.roots.unwrap_many(&wanted.collect::<Vec<_>>()).await;
            again.into_iter().zip(found).for_each(|(at, key)| keys[at] = key);
        }
        for (item, key) in batch.iter_mut().zip(keys) {
            match key {
                Ok(key) => item.key = Some(roots::material(&key)),
                Err(error) => item.failed = Some(error),
            }
        }
    }
}

/// Has one target wrap what it is to wrap.
async fn wrap(aim: &Aim<'_>, target: usize, batch: &mut [Item<'_>]) {
    let asked: Vec<usize> = (0..batch.len()).filter(|at| batch[*at].waits(|need| &need.wrap, target)).collect();
    if asked.is_empty() {
        return;
    }
    let request = |at: &usize| {
        let item = &batch[*at];
        item.key.as_ref().map(|key| WrapRequest { key, context: &item.context })
    };
    let requests: Vec<_> = asked.iter().filter_map(request).collect();
    let answers = aim.targets[target].provider.wrap_many(&requests).await;
    for (at, answer) in asked.into_iter().zip(answers) {
        match answer {
            Ok(wrapped) => batch[at].made.push((target, wrapped)),
            Err(error) => batch[at].failed = Some(error),
        }
    }
}

/// Has one target open what it wrapped, and what it had wrapped before where that is to be relied on alone.
async fn check(aim: &Aim<'_>, target: usize, batch: &mut [Item<'_>]) {
    let provider = aim.targets[target].provider;
    let mut asked = Vec::new();
    for (at, item) in batch.iter_mut().enumerate() {
        if let Some((_, wrapped)) = item.made.iter().find(|(by, _)| *by == target) {
            asked.push((at, wrapped.clone()));
        } else if item.waits(|need| &need.check, target) {
            let wrap = item.row.wraps.iter().find(|wrap| wrap.root == provider.uri());
            match wrap.map(|wrap| WrappedKey::new(wrap.wrapped.clone())) {
                Some(Ok(wrapped)) => asked.push((at, wrapped)),
                Some(Err(error)) => item.failed = Some(error),
                None => item.failed = Some(Error::new(Code::Internal, "a wrap that was there is gone")),
            }
        }
    }
    if asked.is_empty() {
        return;
    }
    let requests: Vec<_> =
        asked.iter().map(|(at, wrapped)| UnwrapRequest { wrapped, context: &batch[*at].context }).collect();
    let answers = provider.kms.unwrap(&requests).await;
    let missing = asked.len() != answers.len();
    for ((at, _), answer) in asked.iter().zip(answers) {
        let item = &mut batch[*at];
        let same = |opened: &KeyMaterial| item.key.as_ref().is_some_and(|key| is_same(key, opened));
        match answer {
            Ok(opened) if same(&opened) => {}
            Ok(_) => item.failed = Some(opens_to_another(provider.uri(), item.row.id)),
            Err(error) => item.failed = Some(error),
        }
    }
    if missing {
        for (at, _) in asked {
            batch[at].failed = Some(crate::kms::wrong_count(provider.kms.uri()));
        }
    }
}

impl Need<'_> {
    fn is_layer_alone(&self) -> bool {
        self.layer.is_some() && self.wrap.is_empty() && self.drop.is_empty()
    }
}

impl Item<'_> {
    /// Whether this target is to be asked, and it makes sense still.
    fn waits(&self, list: impl for<'n> Fn(&'n Need<'_>) -> &'n Vec<usize>, target: usize) -> bool {
        self.failed.is_none() && self.key.is_some() && list(&self.need).contains(&target)
    }

    /// The row with its other wraps, if nothing went wrong.
    fn swap(self, aim: &Aim<'_>) -> Result<(Swap, Made)> {
        let Self { mut row, need, view, made, failed, layer, .. } = self;
        if let Some(error) = failed {
            return Err(error);
        }
        let counts =
            Made { wrapped: made.len() as u64, dropped: need.drop.len() as u64, layers: layer.iter().len() as u64 };
        if let Some(layer) = layer.transpose()? {
            row.customer = Some(layer);
        }
        let uri = |target: usize| aim.targets[target].provider.uri();
        if made.len() != need.wrap.len() {
            return Err(Error::new(Code::Internal, "a data key that was to be wrapped had no answer"));
        }
        row.wraps.retain(|wrap| {
            !need.drop.contains(&wrap.root) && !made.iter().any(|(target, _)| uri(*target) == wrap.root)
        });
        let made = made.into_iter();
        row.wraps.extend(made.map(|(at, wrapped)| Wrap { root: uri(at).to_owned(), wrapped: wrapped.into_bytes() }));
        // The catalog gives them back in this order, and the row's MAC is over them in order.
        row.wraps.sort_by(|a, b| a.root.cmp(&b.root));
        if !aim.targets.iter().all(|target| row.wraps.iter().any(|wrap| wrap.root == target.provider.uri())) {
            return Err(Error::new(Code::Internal, "a data key would lack a wrap"));
        }
        let expected = std::mem::take(&mut row.mac);
        view.rows.tag(&mut row);
        Ok((Swap { key: row, expected }, counts))
    }
}

impl Rewrapped {
    fn fail(&mut self, id: KeyId, error: Error) {
        self.failed += 1;
        if self.failures.len() < TOLD {
            self.failures.push((id, error));
        }
    }

    /// Whether to go on.
    fn take(&mut self, batch: Self) -> bool {
        self.done += batch.done;
        self.wrapped += batch.wrapped;
        self.dropped += batch.dropped;
        self.layers += batch.layers;
        self.overtaken += batch.overtaken;
        self.failed += batch.failed;
        let room = TOLD - self.failures.len().min(TOLD);
        self.failures.extend(batch.failures.into_iter().take(room));
        let going = batch.stopped.is_none();
        self.stopped = self.stopped.take().or(batch.stopped);
        going
    }
}

/// Where to begin and where to end, in turn. Workers that start together begin in different places, so that they seldom
/// do the same; what is done anew whatever it is has an order, so that it can be gone on with.
fn walk(options: &RewrapOptions) -> Result<Vec<(Option<KeyId>, Option<KeyId>)>> {
    if options.after.is_some() || options.renew {
        return Ok(vec![(options.after, None)]);
    }
    let start = KeyId::random().map_err(|e| crate::core_error(e, "cannot choose where to begin"))?;
    Ok(vec![(Some(start), None), (None, Some(start))])
}

/// Not of one data key, so that the next would fail as well.
fn is_of_the_service(error: &Error) -> bool {
    let refused = matches!(error.code(), Code::KmsAccessDenied | Code::KmsKeyDisabled | Code::KmsProtocol);
    refused || error.code().retry() == Retry::Later
}
