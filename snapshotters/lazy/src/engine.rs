//! The overlay engine with a provider of lazy layers, as the daemon wants to see both.

use std::io;
use std::sync::Arc;

use pontoon_daemon::{Census, Number, Profiles};
use pontoon_overlay::Engine;
use pontoon_remote::Remote;
use pontoon_snapshot::{Keyspaces, Result, Snapshotter, SnapshotterName};

use crate::numbers;
use crate::peer::Peering;

/// An engine, and what brings its layers.
pub(crate) struct LazyEngine {
    pub(crate) engine: Arc<Engine>,
    pub(crate) remote: Arc<Remote>,
    pub(crate) peering: Peering,
}

impl Keyspaces for LazyEngine {
    fn open(&self, name: &SnapshotterName) -> Result<Arc<dyn Snapshotter>> {
        Keyspaces::open(&*self.engine, name)
    }
}

impl pontoon_daemon::Engine for LazyEngine {
    fn probe(&self) -> Result<()> {
        pontoon_daemon::Engine::probe(&*self.engine)
    }

    fn census(&self) -> Result<Census> {
        self.engine.census()
    }

    fn layers(&self) -> Option<serde_json::Value> {
        serde_json::to_value(self.remote.report()).ok()
    }

    fn peers(&self) -> Option<serde_json::Value> {
        Some(self.peering.status())
    }

    fn profiles(&self) -> Option<Arc<dyn Profiles>> {
        Some(Arc::new(Learned(Arc::clone(&self.remote))))
    }

    fn numbers(&self) -> Vec<Number> {
        let mut numbers = numbers::of(&self.remote.totals());
        numbers.extend(numbers::peers(self.peering.node().as_deref()));
        numbers
    }

    fn close(&self) {
        self.engine.close();
        self.peering.stop();
        if self.remote.has_left() {
            // The lock on the root, which a successor waits for, is kept until this process has ended: until then its
            // threads may still take requests of the kernel.
            std::mem::forget(Arc::clone(&self.engine));
        }
    }
}

impl Drop for LazyEngine {
    fn drop(&mut self) {
        pontoon_daemon::Engine::close(self);
    }
}

/// The orders that the provider has learned.
struct Learned(Arc<Remote>);

impl Profiles for Learned {
    fn list(&self) -> io::Result<serde_json::Value> {
        serde_json::to_value(self.0.profiles()?).map_err(io::Error::other)
    }

    fn export(&self, name: &str) -> io::Result<Option<String>> {
        self.0.export_profile(name)
    }

    fn import(&self, bytes: &[u8]) -> io::Result<String> {
        self.0.import_profile(bytes)
    }
}
