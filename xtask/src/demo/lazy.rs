//! The second part of the demo: the same image pulled as a whole and pulled lazily, over a link as slow as real ones.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use pontoon_rig::cluster::{Cluster, SNAPSHOTTER, Setup};
use pontoon_rig::containerd::{Pull, Version};
use pontoon_rig::gate::Link;
use pontoon_rig::image::{self, Conversion, Layout, convert};
use pontoon_rig::plugin::Kind;
use pontoon_rig::sandbox::Sandbox;
use pontoon_rig::site::{self, Site};
use pontoon_rig::{Error, Result, command, wait};
use serde_json::Value;

use super::{COMMAND, PLUGIN, Show, USAGE};

/// The link between the node and the registry: megabits per second, and milliseconds per round trip.
const LINK: (u64, u64) = (100, 20);

/// How long the rest of the image may take in the background.
const LIMIT: Duration = Duration::from_mins(2);

/// The form in which the image is pulled lazily.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Estargz,
    Nydus,
}

impl Form {
    /// That of the plugin `name`.
    pub(super) fn of(name: &str) -> std::result::Result<Self, &'static str> {
        match name.strip_prefix("pontoon-").unwrap_or(name) {
            "stargz" => Ok(Self::Estargz),
            "nydus" => Ok(Self::Nydus),
            _ => Err(USAGE),
        }
    }

    /// The plugin for it.
    pub(super) fn plugin(self) -> &'static str {
        match self {
            Self::Estargz => "pontoon-stargz",
            Self::Nydus => "pontoon-nydus",
        }
    }
}

/// How a pull and what followed went.
struct Run {
    plugin: &'static str,
    /// Bytes of the image that was pulled.
    size: u64,
    pull: Duration,
    start: Duration,
    /// What came over the link until the container had done its work.
    bytes: u64,
}

/// An image in a registry.
struct Pushed {
    reference: String,
    size: u64,
}

/// Shows it with the release binaries in `target`.
pub(super) fn present(show: &mut Show, target: &Path, form: Form) -> Result<()> {
    let sandbox = Sandbox::new()?;
    let converted = convert_to(show, target, &sandbox, form)?;
    let site = Site::start(&sandbox, site::Setup::default())?;
    let push = |image: &Layout, tag: &str| {
        Ok(Pushed {
            reference: site.push(image, "debian", tag)?,
            size: image.size()?,
        })
    };
    let lazy = push(&converted, "lazy")?;
    let whole = match form {
        // Whoever knows nothing of it pulls the same image.
        Form::Estargz => push(&converted, "lazy")?,
        Form::Nydus => push(&image::debian()?, "ordinary")?,
    };
    let (megabits, milliseconds) = LINK;
    site.gate.link(Link::new(megabits, milliseconds));
    println!("\nThe registry is {milliseconds} ms and {megabits} Mbit/s away from here on.");
    let whole = self::whole(show, target, &site, &whole)?;
    let lazy = lazily(show, target, &site, &lazy, form)?;
    println!("\nSide by side, {megabits} Mbit/s and {milliseconds} ms from the registry:");
    Show::tell(&table(&[whole, lazy]));
    Ok(())
}

/// The image of the first part in the form `form`.
fn convert_to(show: &mut Show, target: &Path, sandbox: &Sandbox, form: Form) -> Result<Layout> {
    let debian = image::debian()?;
    match form {
        Form::Estargz => show.step("Convert the image to eStargz, as its author would", || {
            Ok(convert(&debian, Conversion::Estargz)?.image)
        }),
        Form::Nydus => show.step("Convert the image: pontoon convert --to nydus", || {
            let to = sandbox.path("nydus");
            let mut command = Command::new(binary(target, COMMAND));
            command.args(["convert", "--to", "nydus"]);
            command.arg(debian.dir()).arg(&to);
            Show::tell(&command::run(&mut command, LIMIT)?.stdout);
            Layout::open(&to)
        }),
    }
}

/// The ordinary way: containerd downloads and unpacks everything, then the container starts.
fn whole(show: &mut Show, target: &Path, site: &Site, image: &Pushed) -> Result<Run> {
    let mut setup = Setup::new(Version::V2_3);
    setup.plugin.kind = Kind::Pontoon(binary(target, PLUGIN));
    setup.plugin.log_level = "info";
    setup.concurrent_unpacks = 4;
    let cluster = show.step(
        &format!("Start {PLUGIN} with a containerd of its own"),
        || Cluster::start(setup),
    )?;
    pull_and_run(show, &cluster, site, image, PLUGIN)
}

/// The lazy way.
fn lazily(show: &mut Show, target: &Path, site: &Site, image: &Pushed, form: Form) -> Result<Run> {
    let (plugin, reference) = (form.plugin(), image.reference.as_str());
    let sandbox = Sandbox::new()?;
    // The credentials of whoever runs the demo are of no concern here.
    let docker = sandbox.path("docker.json");
    fs::write(&docker, "{}").map_err(|error| failed("writing a file", error))?;
    let config = format!(
        "[registry]\nconfig_path = {:?}\n[credentials]\ndocker_config = {docker:?}\n",
        site.hosts_dir()
    );
    let mut setup = Setup::lazy(Version::V2_3, &config);
    setup.plugin.kind = Kind::Pontoon(binary(target, plugin));
    setup.plugin.log_level = "info";
    let cluster = show.step(
        &format!("Start {plugin} with a containerd of its own"),
        || Cluster::start_in(sandbox, setup),
    )?;
    let run = pull_and_run(show, &cluster, site, image, plugin)?;
    let admin = cluster.sandbox.path("plugin-admin.sock");
    show.step(
        "See what is here by now: the rest comes in the background",
        || {
            let shown = pontoon(target, &admin, &["inspect", reference])?;
            Show::tell(&shown);
            Ok(())
        },
    )?;
    show.step(
        "Wait for the rest, take the registry away, and run it again",
        || {
            wait::until("the whole image", LIMIT, || {
                let shown = pontoon(target, &admin, &["inspect", reference, "--json"])?;
                Ok(is_complete(&shown).then_some(()))
            })?;
            site.gate.down()?;
            let again = cluster
                .containerd
                .run(SNAPSHOTTER, &[], reference, "again", &[])?;
            Show::tell(&again.stdout);
            site.gate.up()
        },
    )?;
    Ok(run)
}

fn pull_and_run(
    show: &mut Show,
    cluster: &Cluster,
    site: &Site,
    image: &Pushed,
    plugin: &'static str,
) -> Result<Run> {
    let reference = image.reference.as_str();
    let containerd = &cluster.containerd;
    let mark = site.gate.mark();
    let what = format!("Pull {reference} onto {plugin}");
    let pull = show.step(&what, || {
        let pull = Pull {
            reference,
            snapshotter: SNAPSHOTTER,
            hosts: Some(site.hosts_dir()),
            user: None,
        };
        let started = Instant::now();
        containerd.pull(&pull)?;
        Show::tell(&format!("{} came over the link", megabytes(mark.bytes())));
        Ok(started.elapsed())
    })?;
    let start = show.step("Run a container on it", || {
        let started = Instant::now();
        let output = containerd.run(SNAPSHOTTER, &[], reference, "first", &[])?;
        Show::tell(&output.stdout);
        Ok(started.elapsed())
    })?;
    Ok(Run {
        plugin,
        size: image.size,
        pull,
        start,
        bytes: mark.bytes(),
    })
}

fn table(runs: &[Run]) -> String {
    let mut text = format!(
        "{:<18} {:>8} {:>10} {:>9}   over the link by then",
        "", "pull", "first run", "together"
    );
    for run in runs {
        let seconds = |time: Duration| format!("{:.2} s", time.as_secs_f32());
        text.push_str(&format!(
            "\n{:<18} {:>8} {:>10} {:>9}   {} of {}",
            run.plugin,
            seconds(run.pull),
            seconds(run.start),
            seconds(run.pull + run.start),
            megabytes(run.bytes),
            megabytes(run.size),
        ));
    }
    text
}

/// What the command says.
fn pontoon(target: &Path, admin: &Path, arguments: &[&str]) -> Result<String> {
    let mut asked = Command::new(binary(target, COMMAND));
    asked.args(arguments).arg("--admin").arg(admin);
    Ok(command::run(&mut asked, LIMIT)?.stdout)
}

/// Whether `pontoon inspect --json` says that every lazy layer is here.
fn is_complete(shown: &str) -> bool {
    let parsed: Value = serde_json::from_str(shown).unwrap_or_default();
    let layers = parsed["layers"].as_array().into_iter().flatten();
    let mut percents = layers.filter_map(|layer| layer["progress"]["percent"].as_f64());
    percents.all(|percent| percent >= 100.0)
}

fn binary(target: &Path, name: &str) -> String {
    let path: PathBuf = target.join(name);
    path.to_string_lossy().into_owned()
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

fn failed(what: &str, error: std::io::Error) -> Error {
    Error::unexpected(what, error.to_string())
}
