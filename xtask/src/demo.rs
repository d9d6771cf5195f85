//! `cargo xtask demo [--image REF [COMMAND...]]`: a container on Pontoon, shown step by step; then, without `--image`,
//! a lazily pulled image beside the same image pulled as a whole. `cargo xtask demo --nodes N`: several nodes that start one
//! image at once, and give each other what they have.
//!
//! Everything private: sandboxes below `target/rig` with their own plugins, containerds and registries. They are gone at
//! the end, also after a failure and after Ctrl-C.

mod lazy;
mod nodes;

use std::error::Error;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use pontoon_rig::cluster::{Cluster, SNAPSHOTTER, Setup};
use pontoon_rig::containerd::Version;
use pontoon_rig::plugin::Kind;
use pontoon_rig::registry::Registry;
use pontoon_rig::tools::{self, Tool};
use pontoon_rig::{Result as RigResult, image, wait};
use signal_hook::consts::{SIGINT, SIGTERM};

const PLUGIN: &str = "pontoon-overlayfs";
const LAZY_PLUGIN: &str = "pontoon-stargz";

/// What the lazy plugin starts.
const HOLDER: &str = "pontoon-holder";
const COMMAND: &str = "pontoon";

/// Numbers the steps and times them.
struct Show {
    started: Instant,
    steps: u32,
}

impl Show {
    fn step<T>(&mut self, what: &str, act: impl FnOnce() -> RigResult<T>) -> RigResult<T> {
        self.steps += 1;
        println!("\n{}. {what}", self.steps);
        let started = Instant::now();
        let done = act()?;
        println!("   done in {:.2} s", started.elapsed().as_secs_f32());
        Ok(done)
    }

    fn tell(text: &str) {
        for line in text.lines() {
            println!("   | {line}");
        }
    }
}

/// Shows one container's life; with `--image REF` on an image from a registry.
pub(crate) fn run(root: &Path, arguments: &[String]) -> Result<(), Box<dyn Error>> {
    let mut nodes = None;
    let (image, command) = match arguments {
        [] => (None, &[][..]),
        [flag, number] if flag == "--nodes" => {
            let parsed = number.parse().ok().filter(|nodes| (2..=16).contains(nodes));
            nodes = Some(parsed.ok_or("--nodes takes a number from 2 to 16")?);
            (None, &[][..])
        }
        [flag, reference, command @ ..] if flag == "--image" => (Some(reference.as_str()), command),
        _ => return Err("usage: cargo xtask demo [--image REF [COMMAND...] | --nodes N]".into()),
    };
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, wait::interrupt_flag())?;
    }
    println!("Pontoon demo: a container on a Pontoon snapshotter, under a private containerd.");
    println!(
        "What is missing is installed below target/rig; mmdebstrap, where it is missing, by apt-get."
    );
    let mut show = Show {
        started: Instant::now(),
        steps: 0,
    };
    prepare(root, &mut show, image.is_none())?;
    let target = root.join("target/release");
    let ended = match nodes {
        Some(nodes) => nodes::present(&mut show, &target, nodes),
        None => present(&mut show, &target.join(PLUGIN), image, command).and_then(|()| {
            match image {
                None => lazy::present(&mut show, &target),
                // Nobody says that it can be pulled lazily.
                Some(_) => Ok(()),
            }
        }),
    };
    // The sandboxes are gone here: every value that held a part of them was dropped.
    println!("\nCleaned up: no process, mount or file of the demo is left.");
    ended.map_err(|error| format!("{error:?}"))?;
    println!(
        "The whole demo took {:.1} s.",
        show.started.elapsed().as_secs_f32()
    );
    Ok(())
}

fn prepare(root: &Path, show: &mut Show, own_image: bool) -> Result<(), Box<dyn Error>> {
    let mut wanted = vec![Tool::Debian12, Tool::Containerd23];
    let mut what = "Install containerd 2.3, runc and a registry";
    let mut programs = vec![PLUGIN];
    if own_image {
        wanted.push(Tool::Images);
        what = "Install containerd 2.3, runc, a registry and a converter of images";
        programs.extend([LAZY_PLUGIN, HOLDER, COMMAND]);
    }
    let installed = show.step(what, || {
        tools::install(&wanted, || {
            if own_image {
                image::debian().map(drop)
            } else {
                Ok(())
            }
        })
    });
    installed.map_err(|error| format!("{error:?}"))?;
    println!("\nBuild {} (release)", programs.join(", "));
    let packages = programs.iter().flat_map(|name| ["--package", name]);
    let built = Command::new(env!("CARGO"))
        .args(["build", "--release"])
        .args(packages)
        .current_dir(root)
        .status()?;
    if built.success() {
        Ok(())
    } else {
        Err("the build failed; see above".into())
    }
}

/// The part that needs cleaning up.
fn present(
    show: &mut Show,
    plugin: &Path,
    image: Option<&str>,
    command: &[String],
) -> RigResult<()> {
    let cluster = show.step(&format!("Start {PLUGIN} and a private containerd"), || {
        let mut setup = Setup::new(Version::V2_3);
        setup.plugin.kind = Kind::Pontoon(plugin.to_string_lossy().into_owned());
        setup.plugin.log_level = "info";
        setup.concurrent_unpacks = 4;
        Cluster::start(setup)
    })?;
    let containerd = &cluster.containerd;
    Show::tell(&format!("{}\n", containerd.proxy_configuration()?));
    Show::tell(&plugins(&containerd.ctr(["plugins", "ls"])?.stdout));

    let registry = Registry::start(&cluster.sandbox)?;
    let reference = match image {
        Some(reference) => reference.to_owned(),
        None => show.step(
            "Push a Debian image with Python to a private registry",
            || registry.push(&image::debian()?, "debian", "demo"),
        )?,
    };
    show.step(
        &format!("Pull {reference}: its layers are unpacked onto Pontoon, in parallel"),
        || {
            let pull = ["images", "pull", "--snapshotter", SNAPSHOTTER];
            // Only the private registry speaks plain HTTP.
            let plain = image.is_none().then_some("--plain-http");
            containerd.ctr(pull.into_iter().chain(plain).chain([reference.as_str()]))?;
            Show::tell(
                &containerd
                    .ctr(["snapshots", "--snapshotter", SNAPSHOTTER, "ls"])?
                    .stdout,
            );
            Ok(())
        },
    )?;
    show.step("Run a container on it", || {
        let command: Vec<&str> = command.iter().map(String::as_str).collect();
        let output = containerd.run(SNAPSHOTTER, &[], &reference, "demo", &command)?;
        Show::tell(&output.stdout);
        Ok(())
    })?;
    show.step(
        "Remove the image: containerd's collector empties the plugin",
        || {
            containerd.ctr(["images", "rm", "--sync", &reference])?;
            wait::until("an empty plugin", Duration::from_secs(20), || {
                let left = cluster.plugin.snapshot_dirs()?;
                Ok(left.is_empty().then_some(()))
            })
        },
    )
}

/// The line of `ctr plugins ls` that names our plugin, below its heading.
fn plugins(listed: &str) -> String {
    let wanted = |line: &&str| line.starts_with("TYPE") || line.contains(SNAPSHOTTER);
    listed.lines().filter(wanted).collect::<Vec<_>>().join("\n")
}
