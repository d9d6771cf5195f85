//! What happens on the line before the first byte of an image of ten layers: at a registry that asks for tokens and
//! speaks TLS, over a link of nothing but latency.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::time::{Duration, Instant};

use pontoon_rig::cluster::{Cluster, SNAPSHOTTER, Setup};
use pontoon_rig::command;
use pontoon_rig::containerd::{Pull, Version};
use pontoon_rig::gate::{Exchange, Link, Request};
use pontoon_rig::image::{self, Conversion, convert};
use pontoon_rig::plugin::Kind;
use pontoon_rig::sandbox::Sandbox;
use pontoon_rig::site::{self, Site, Users};
use pontoon_rig::token::{PASSWORD, USER};

use super::node::{DAEMON, Settings};
use super::table::Judged;

/// How many layers.
const LAYERS: usize = 10;

/// A round trip beside which what the machine does is little.
const TRIP: Duration = Duration::from_millis(300);

/// How long the pull may take.
const LIMIT: Duration = Duration::from_mins(2);

/// Pulls the image, reads a file of its topmost layer, and counts.
pub(super) fn measure(settings: &Settings) -> Result<Vec<Judged>, Box<dyn Error>> {
    let sandbox = Sandbox::new()?;
    let setup = site::Setup {
        users: Users::Bearer,
        tls: true,
    };
    let site = Site::start(&sandbox, setup)?;
    let layout = image::many_layers(&sandbox.subdir("ten")?, LAYERS)?;
    let image = convert(&layout, Conversion::Estargz)?;
    let reference = site.push_converted(&image, "ten", "1")?;
    let user = format!("{USER}:{PASSWORD}");
    let config = format!(
        "{}\n[registry]\nconfig_path = {:?}\n[credentials]\nfixed = [\"{} {USER} {PASSWORD}\"]\n\
         [background]\nenabled = false\n",
        settings.config,
        site.hosts_dir(),
        site.host(),
    );
    let mut setup = Setup::lazy(Version::V2_3, &config);
    setup.plugin.kind = Kind::Pontoon(DAEMON.into());
    setup.plugin.log_level = "info";
    let cluster = Cluster::start_in(sandbox, setup)?;
    site.gate.link(Link {
        round_trip: TRIP,
        bytes_per_second: 0,
    });
    let mark = site.gate.mark();
    let began = Instant::now();
    let pull = Pull {
        reference: &reference,
        snapshotter: SNAPSHOTTER,
        hosts: Some(site.hosts_dir()),
        user: Some(&user),
    };
    command::run(&mut cluster.containerd.pull_command(&pull)?, LIMIT)?;
    let root = cluster.sandbox.subdir("mounted")?;
    let target = root.to_string_lossy().into_owned();
    let options = ["images", "mount", "--snapshotter", SNAPSHOTTER];
    cluster
        .containerd
        .ctr(options.into_iter().chain([&*reference, &target]))?;
    let last = root.join(format!("n/{}", LAYERS - 1));
    let text = fs::read_to_string(&last)?;
    let trips = began.elapsed().as_secs_f64() / TRIP.as_secs_f64();
    let (exchanges, connections) = (mark.exchanges(), mark.connections());
    let unmount = ["images", "unmount", "--rm", "--snapshotter", SNAPSHOTTER];
    cluster
        .containerd
        .ctr(unmount.into_iter().chain([&*target]))?;
    if text.trim() != (LAYERS - 1).to_string() {
        return Err(format!("{} holds {text:?}", last.display()).into());
    }
    Ok(rows(&exchanges, connections, trips))
}

fn rows(exchanges: &[Exchange], connections: usize, trips: f64) -> Vec<Judged> {
    let name = |what: &str| format!("{LAYERS} layers, first byte: {what}");
    let count = |wanted: fn(&Request) -> bool| {
        exchanges.iter().filter(|e| wanted(&e.request)).count() as f64
    };
    let told = |what: &str, value: f64| Judged::told(name(what), "", value);
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for exchange in exchanges.iter().filter(|e| e.request.is_blob()) {
        let Request {
            method,
            path,
            range,
            ..
        } = &exchange.request;
        eprintln!("{method} {path} {range:?}: {:?}", exchange.status);
        if exchange.status.is_some_and(|status| status < 400) {
            *seen
                .entry(format!("{method} {path} {range:?}"))
                .or_default() += 1;
        }
    }
    let twice = seen.values().filter(|count| **count > 1).count() as f64;
    vec![
        told("round trips, containerd's own included", trips),
        told("connections, containerd's own included", connections as f64),
        told("requests for tokens", count(Request::is_token)),
        told("requests for manifests", count(Request::is_manifest)),
        told("requests for blobs", count(Request::is_blob)),
        Judged::value(name("blobs' ranges asked for twice"), "", twice, 0.0),
    ]
}
