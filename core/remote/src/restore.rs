//! Layers that containers go on using while daemons come and go.
//!
//! A daemon that takes over a connection is asked about layers that its predecessor had open. It opens them when they are
//! first asked for, and those that containers lie on soon after its start, since the cache evicts what nobody has open.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use pontoon_fuse::Layers;
use pontoon_lazyfs::LazyLayer;
use pontoon_overlay::User;

use crate::item::{Item, lock};
use crate::stock::Stock;

/// How long a layer that could not be opened is not tried again: the kernel asks about it as often as a program does.
const FAILURE_LASTS: Duration = Duration::from_secs(10);

/// The most keys that one line of the log names.
const NAMED_MAX: usize = 50;

/// Which layers could not be opened, and when.
#[derive(Debug, Default)]
pub(crate) struct Failures(Mutex<BTreeMap<u32, Instant>>);

impl Failures {
    fn is_recent(&self, number: u32) -> bool {
        let failed = lock(&self.0).get(&number).copied();
        failed.is_some_and(|failed| failed.elapsed() < FAILURE_LASTS)
    }

    fn note(&self, number: u32) {
        lock(&self.0).insert(number, Instant::now());
    }
}

impl Layers for Stock {
    fn get(&self, number: u32) -> Option<Arc<LazyLayer>> {
        self.table.get(number).or_else(|| self.restored(number))
    }

    fn list(&self) -> Vec<u32> {
        self.table.list()
    }
}

impl Stock {
    /// The layer `number`, which is recorded and was not opened by this daemon yet.
    fn restored(&self, number: u32) -> Option<Arc<LazyLayer>> {
        if self.failures.is_recent(number) {
            return None;
        }
        let items = self.items();
        let item = items.iter().find(|item| item.record.number == number)?;
        self.restore(item)
    }

    fn restore(&self, item: &Item) -> Option<Arc<LazyLayer>> {
        if self.closed.load(Ordering::Relaxed) || item.snapshots() == 0 {
            return None;
        }
        let number = item.record.number;
        match self.open_layer(&item.record) {
            Ok(opened) => Some(opened.layer),
            Err(error) => {
                self.failures.note(number);
                tracing::error!(
                    layer = item.record.blob(),
                    error = &error as &dyn std::error::Error,
                    "a layer that containers may be using cannot be opened: what they read of it fails"
                );
                None
            }
        }
    }
}

/// Opens what `users` lie on, and has the rest of it fetched, on a thread of its own.
pub(crate) fn restore(stock: &Arc<Stock>, users: &[User]) {
    let wanted: std::collections::BTreeSet<_> = users
        .iter()
        .flat_map(|user| &user.layers)
        .copied()
        .collect();
    if wanted.is_empty() {
        return;
    }
    let stock = Arc::clone(stock);
    let started = thread::Builder::new()
        .name("restore".to_owned())
        .spawn(move || {
            let begun = Instant::now();
            let items = stock.items();
            let used = items.iter().filter(|item| {
                let users = lock(&item.users);
                users.snapshots.iter().any(|id| wanted.contains(id))
            });
            let mut layers = 0;
            for item in used {
                if let Some(layer) = stock.restore(item) {
                    item.prefetch_everything(&layer);
                    layers += 1;
                }
            }
            tracing::info!(layers, time = ?begun.elapsed(), "opened the layers that snapshots lie on");
        });
    if let Err(error) = started {
        tracing::warn!(%error, "layers in use are opened when they are read");
    }
}

/// Names those whose files are gone for good, because nobody kept what they were read through.
pub(crate) fn name_lost(users: &[User]) {
    // Where containers have mounts that this process does not see, all of them may be meant.
    let some = users.iter().any(|user| user.is_mounted);
    let lost = users.iter().filter(|user| user.is_mounted || !some);
    let mut keys: Vec<&str> = lost.map(|user| user.key.as_str()).collect();
    let count = keys.len();
    keys.truncate(NAMED_MAX);
    if count > 0 {
        tracing::error!(
            snapshots = count,
            keys = keys.join(", "),
            "the lazy layers of these snapshots have lost their connection, and programs that use them read errors: restart the containers"
        );
    }
}
