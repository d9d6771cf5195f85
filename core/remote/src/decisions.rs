//! What became of the layers that were asked for, and why.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use pontoon_layer::Digest;

use crate::reason::Refusal;

/// So many layers are remembered.
const LAYERS_MAX: usize = 4096;

/// What became of a layer that is not lazy.
#[derive(Debug, Clone)]
pub(crate) struct Decision {
    pub(crate) image: String,
    pub(crate) layer: String,
    /// Unpacked here, or left to containerd.
    pub(crate) unpacked: bool,
    /// Why it is not lazy.
    pub(crate) why: Refusal,
    pub(crate) when: SystemTime,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Decisions(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    layers: BTreeMap<(String, String), Decision>,
    counts: Counts,
}

/// How many layers were asked for, by what became of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Lazy.
    pub lazy: u64,
    /// Unpacked here, by why they are not lazy.
    pub unpacked: BTreeMap<&'static str, u64>,
    /// Left to containerd, by why.
    pub declined: BTreeMap<&'static str, u64>,
}

impl Decisions {
    /// A layer is lazy.
    pub(crate) fn lazy(&self, image: &str, layer: &Digest) {
        let mut state = self.lock();
        state.counts.lazy += 1;
        state.layers.remove(&(image.to_owned(), layer.to_string()));
    }

    /// A layer is not.
    pub(crate) fn ordinary(&self, image: &str, layer: &Digest, unpacked: bool, why: &Refusal) {
        let mut state = self.lock();
        let counts = match unpacked {
            true => &mut state.counts.unpacked,
            false => &mut state.counts.declined,
        };
        *counts.entry(why.reason).or_default() += 1;
        let decision = Decision {
            image: image.to_owned(),
            layer: layer.to_string(),
            unpacked,
            why: why.clone(),
            when: SystemTime::now(),
        };
        let key = (decision.image.clone(), decision.layer.clone());
        state.layers.insert(key, decision);
        if state.layers.len() > LAYERS_MAX {
            let oldest = state
                .layers
                .iter()
                .min_by_key(|(_, decision)| decision.when);
            if let Some(key) = oldest.map(|(key, _)| key.clone()) {
                state.layers.remove(&key);
            }
        }
    }

    /// Nothing is known of where the layer is.
    pub(crate) fn unknown(&self, why: &Refusal) {
        *self.lock().counts.declined.entry(why.reason).or_default() += 1;
    }

    pub(crate) fn counts(&self) -> Counts {
        self.lock().counts.clone()
    }

    pub(crate) fn all(&self) -> Vec<Decision> {
        self.lock().layers.values().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
