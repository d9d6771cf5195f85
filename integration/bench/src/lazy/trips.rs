//! What happens on the line before the first byte of an image of ten layers: at a registry that asks for tokens and
//! speaks TLS, over a link of nothing but latency.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::ops::Range;
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
        ..site::Setup::default()
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
    tell(&exchanges, began);
    Ok(rows(&exchanges, connections, trips))
}

fn tell(exchanges: &[Exchange], began: Instant) {
    for Exchange {
        request,
        arrived,
        status,
        ..
    } in exchanges
    {
        let at = arrived.saturating_duration_since(began).as_millis();
        let range = request.range.as_deref().unwrap_or_default();
        let (connection, path) = (request.connection, &request.path);
        let status = status.unwrap_or_default();
        eprintln!("{at} ms, connection {connection}: {path} {range} {status}");
    }
}

fn rows(exchanges: &[Exchange], connections: usize, trips: f64) -> Vec<Judged> {
    let name = |what: &str| format!("{LAYERS} layers, first byte: {what}");
    let count = |wanted: fn(&Request) -> bool| {
        exchanges.iter().filter(|e| wanted(&e.request)).count() as f64
    };
    let told = |what: &str, value: f64| Judged::told(name(what), "", value);
    vec![
        told("round trips, containerd's own included", trips),
        told("connections, containerd's own included", connections as f64),
        told("requests for tokens", count(Request::is_token)),
        told("requests for manifests", count(Request::is_manifest)),
        told("requests for blobs", count(Request::is_blob)),
        Judged::value(
            name("bytes of blobs that came twice"),
            "",
            twice(exchanges) as f64,
            0.0,
        ),
    ]
}

/// How many bytes of blobs came more than once.
fn twice(exchanges: &[Exchange]) -> u64 {
    let mut pieces: BTreeMap<&str, Vec<Range<u64>>> = BTreeMap::new();
    for Exchange { request, bytes, .. } in exchanges.iter().filter(|e| e.request.is_blob()) {
        let first = request.bytes().map_or(0, |(first, _)| first);
        let piece = first..first + bytes;
        pieces.entry(&request.path).or_default().push(piece);
    }
    let mut twice = 0;
    for pieces in pieces.values_mut() {
        pieces.sort_by_key(|piece| piece.start);
        let mut end = 0;
        for piece in pieces {
            twice += end.min(piece.end).saturating_sub(piece.start);
            end = end.max(piece.end);
        }
    }
    twice
}
