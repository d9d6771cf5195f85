//! `pontoon hydrate IMAGE`: puts what a lazy pull has left out into containerd's content store.

pub(crate) mod document;
mod plan;
mod transfer;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use pontoon_containerd::{Client, ContentStore, Descriptor, Error};
use pontoon_source::Reference;

use crate::failure::{EXIT_LATER, EXIT_UNAVAILABLE, Failure, chain};
use crate::interrupt::interrupted;
use crate::progress::Progress;
use crate::settings;
use crate::text;
use plan::Plan;
pub(crate) use plan::find;
use transfer::{Outcome, Transfer};

/// How long what came so far is kept if we do not come to an end.
const LEASE: Duration = Duration::from_secs(24 * 3600);

/// What is said when somebody stops it.
const STOPPED: &str =
    "interrupted; what came is kept for a day, and the same command goes on from there";

/// The exit codes.
const EXIT_CODES: &str = "\
Exit codes:
  0   all of the image is in the content store
  1   some of it is not, and trying again would not help by itself
  64  the command line or the daemon's configuration is wrong
  69  containerd does not answer
  75  interrupted, or the registry is not available: the same command goes on where it stopped";

/// Put the blobs that a lazy pull has left out into containerd's content store, verified
///
/// Needed before what reads an image out of the content store: save and export, a push to another registry, a conversion,
/// a pull onto another snapshotter without a network. Running containers and builds on top do not need it. All platforms
/// are completed of which the manifest was pulled.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Hydrate {
    /// The image, as containerd names it (`ctr images ls`)
    image: String,
    /// containerd's socket
    #[arg(
        long,
        value_name = "SOCKET",
        default_value = "/run/containerd/containerd.sock"
    )]
    containerd: PathBuf,
    /// The namespace of containerd that the image is in: k8s.io for Kubernetes, moby for Docker
    #[arg(long, default_value = "default")]
    namespace: String,
    /// The image in the registry that has its blobs, if neither its name nor what containerd noted when it was pulled
    /// says so
    #[arg(long, value_name = "IMAGE", value_parser = reference)]
    from: Option<Reference>,
    /// The daemon's configuration, for [registry] and [credentials]; /etc/pontoon/stargz.toml or nydus.toml if that exists
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Hydrate {
    pub(crate) async fn run(&self) -> Result<ExitCode, Failure> {
        let registry = settings::registry(self.config.as_deref())?;
        let client = Client::new(&self.containerd, &self.namespace).map_err(failure)?;
        let image = plan::find(&client, &self.image).await?;
        let plan = Plan::of(&image, &client.content()).await?;
        let missing = absent(&client.content(), &plan.blobs).await?;
        tell_what_is_left_out(&plan);
        let there = plan.blobs.len() - missing.len();
        let lease = client.leases().create("hydrate", LEASE).await;
        let lease = lease.map_err(failure)?;
        let store = lease.client().content();
        for (digest, labels) in &plan.labels {
            store.set_labels(digest, labels).await.map_err(failure)?;
        }
        let sizes = missing.iter().map(|blob| blob.size);
        let transfer = Arc::new(Transfer {
            store,
            registry,
            sources: match &self.from {
                Some(from) => vec![from.clone()],
                None => plan.sources,
            },
            progress: Progress::new(sizes),
        });
        let outcome = tokio::select! {
            outcome = transfer.all(&missing) => Ok(outcome),
            () = transfer.progress.tell() => Ok(Outcome::default()),
            () = interrupted() => Err(Failure::new(EXIT_LATER, STOPPED)),
        };
        transfer.progress.end();
        let ended = outcome.and_then(judge);
        // What came is of use to the next attempt, if there is reason for one.
        if !matches!(&ended, Err(failure) if failure.code == EXIT_LATER) {
            lease.delete().await.map_err(failure)?;
        }
        let outcome = ended?;
        check_complete(&image.name, &absent(&client.content(), &plan.blobs).await?)?;
        crate::show(&format!(
            "{}: {} and {} written, {} there already\n",
            image.name,
            text::count(outcome.written, "blob"),
            text::bytes(outcome.bytes),
            text::count(there as u64, "blob"),
        ))?;
        Ok(ExitCode::SUCCESS)
    }
}

/// The name of `image` and the digests of its layers, the lowest first, by its manifests.
pub(crate) async fn layers(client: &Client, image: &str) -> Result<(String, Vec<String>), Failure> {
    let image = plan::find(client, image).await?;
    let plan = Plan::of(&image, &client.content()).await?;
    Ok((image.name, plan.layers()))
}

fn reference(text: &str) -> Result<Reference, String> {
    Reference::parse(text).map_err(|error| chain(&error))
}

/// How an error of containerd's ends a verb.
pub(crate) fn failure(error: Error) -> Failure {
    Failure::new(code(&error), chain(&error))
}

/// With which code it does.
pub(crate) fn code(error: &Error) -> u8 {
    let is_later = match error {
        Error::Source { source, .. } => source
            .downcast_ref::<pontoon_source::Error>()
            .is_some_and(pontoon_source::Error::is_transient),
        Error::Busy { .. } => true,
        _ => false,
    };
    match error {
        _ if is_later => EXIT_LATER,
        Error::Unavailable { .. } => EXIT_UNAVAILABLE,
        _ => 1,
    }
}

/// Those of `blobs` that are not in the content store.
async fn absent(store: &ContentStore, blobs: &[Descriptor]) -> Result<Vec<Descriptor>, Failure> {
    let mut missing = Vec::new();
    for blob in blobs {
        if !store.has(&blob.digest).await.map_err(failure)? {
            missing.push(blob.clone());
        }
    }
    Ok(missing)
}

/// A clock that jumps can end a lease, and somebody can delete the image meanwhile.
fn check_complete(image: &str, lost: &[Descriptor]) -> Result<(), Failure> {
    if lost.is_empty() {
        return Ok(());
    }
    let lost: Vec<String> = lost.iter().map(|blob| blob.digest.to_string()).collect();
    let lost = lost.join(", ");
    let message = format!(
        "{image}: {lost} came and was collected again: was the image deleted meanwhile, or the clock set? Run it again"
    );
    Err(Failure::new(EXIT_LATER, message))
}

fn tell_what_is_left_out(plan: &Plan) {
    if plan.absent > 0 {
        let manifests = text::count(plan.absent as u64, "manifest");
        eprintln!("{manifests} of other platforms were not pulled and are left out");
    }
    if plan.foreign > 0 {
        let layers = text::count(plan.foreign as u64, "layer");
        eprintln!("{layers} that must not be distributed are left out");
    }
}

/// Fails with all that went wrong. One thing that time does not mend makes another attempt useless.
fn judge(outcome: Outcome) -> Result<Outcome, Failure> {
    let failures: Vec<Failure> = outcome.errors.into_iter().map(failure).collect();
    if failures.is_empty() {
        return Ok(Outcome {
            errors: Vec::new(),
            ..outcome
        });
    }
    let code = match failures.iter().all(|failure| failure.code == EXIT_LATER) {
        true => EXIT_LATER,
        false => failures
            .iter()
            .map(|failure| failure.code)
            .min()
            .unwrap_or(1),
    };
    let messages: Vec<String> = failures
        .into_iter()
        .map(|failure| failure.message)
        .collect();
    Err(Failure::new(code, messages.join("\n")))
}
