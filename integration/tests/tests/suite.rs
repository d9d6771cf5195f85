//! Pontoon's own conformance cases: on the daemon through its socket, and on containerd's own overlayfs, which
//! shows that the cases are right.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::sync::Arc;

use pontoon_proto::client::Client;
use pontoon_rig::plugin::{Kind, Plugin, Setup};
use pontoon_rig::sandbox::Sandbox;
use pontoon_suite::{Harness, Oracle};

fn start(kind: Kind, oracle: Oracle) -> Harness {
    let sandbox = Sandbox::new().unwrap();
    let setup = Setup {
        kind,
        ..Setup::default()
    };
    let plugin = Plugin::start(&sandbox, setup).unwrap();
    Harness {
        keyspaces: Arc::new(Client::new(plugin.socket()).unwrap()),
        root: plugin.root().to_owned(),
        oracle,
        keep: Box::new((plugin, sandbox)),
    }
}

fn daemon() -> Harness {
    start(Kind::from_env(), Oracle::No)
}

fn containerd() -> Harness {
    start(Kind::Oracle, Oracle::Containerd)
}

mod on_the_daemon {
    pontoon_suite::conformance!(crate::daemon);
}

mod on_containerd {
    pontoon_suite::conformance!(crate::containerd);
}
