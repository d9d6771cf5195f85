//! Where an image is: in a layout directory, in a registry, or in containerd.

mod pull;
mod push;

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use pontoon_containerd::Client;
use pontoon_convert::{Layout, NewLayout, Platform, Selection, Source, Target};
use pontoon_source::Reference;
use tokio::runtime::Handle;

use crate::convert;
use crate::failure::{Failure, chain};
use crate::progress::Progress;
use crate::watched::Stop;
use crate::{hydrate, settings};

pub(crate) use push::Push;

/// Forms of other tools, which we do not read.
const FOREIGN: [&str; 6] = [
    "oci-archive",
    "docker-archive",
    "docker-daemon",
    "dir",
    "containers-storage",
    "ostree",
];

/// A place for an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// `oci:DIRECTORY[:NAME]`, or a directory: an OCI layout.
    Layout {
        /// The directory.
        directory: PathBuf,
        /// The image's name in it.
        name: Option<String>,
    },
    /// `docker://REGISTRY/REPOSITORY[:TAG][@DIGEST]`.
    Registry(Reference),
    /// `containerd://[NAMESPACE/]IMAGE`.
    Containerd {
        /// That of `--namespace` if it names none.
        namespace: Option<String>,
        /// As containerd or Docker names it.
        image: String,
    },
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(image) = text.strip_prefix("docker://") {
            let reference = Reference::parse(image).map_err(|error| chain(&error))?;
            return Ok(Place::Registry(reference));
        }
        if let Some(rest) = text.strip_prefix("containerd://") {
            return containerd(rest);
        }
        if let Some((scheme, _)) = text.split_once("://") {
            return Err(format!(
                "{scheme}:// is not known; write docker://, containerd://, oci: or a directory"
            ));
        }
        let (directory, name) = match text.strip_prefix("oci:") {
            None => (text, None),
            Some(rest) => match rest.split_once(':') {
                None => (rest, None),
                Some((directory, name)) => (directory, Some(name.to_owned())),
            },
        };
        if let Some((scheme, _)) = text
            .split_once(':')
            .filter(|(scheme, _)| FOREIGN.contains(scheme))
        {
            return Err(format!(
                "{scheme}: is not read; make a layout of it: skopeo copy --all {text} oci:DIRECTORY"
            ));
        }
        if directory.is_empty() || name.as_deref() == Some("") {
            return Err("it names no directory, or an empty name in it".to_owned());
        }
        Ok(Place::Layout {
            directory: directory.into(),
            name,
        })
    }
}

/// Reads `[NAMESPACE/]IMAGE`. What stands before an image's registry is a namespace.
fn containerd(text: &str) -> Result<Place, String> {
    let is_host = |part: &str| part.contains(['.', ':']) || part == "localhost";
    let (namespace, image) = match text.split_once('/') {
        Some((namespace, image))
            if image.split_once('/').is_some_and(|(host, _)| is_host(host)) =>
        {
            (Some(namespace.to_owned()), image)
        }
        _ => (None, text),
    };
    if image.is_empty() || namespace.as_deref() == Some("") {
        return Err("it names no image; write containerd://[NAMESPACE/]IMAGE".to_owned());
    }
    Ok(Place::Containerd {
        namespace,
        image: image.to_owned(),
    })
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Layout { directory, name } => {
                write!(f, "oci:{}", directory.display())?;
                name.iter().try_for_each(|name| write!(f, ":{name}"))
            }
            Place::Registry(reference) => write!(f, "docker://{reference}"),
            Place::Containerd { namespace, image } => {
                f.write_str("containerd://")?;
                (namespace.iter()).try_for_each(|namespace| write!(f, "{namespace}/"))?;
                f.write_str(image)
            }
        }
    }
}

/// How places are reached.
#[derive(Debug, clap::Args)]
pub(crate) struct Ways {
    /// containerd's socket, for containerd://
    #[arg(
        long,
        value_name = "SOCKET",
        default_value = "/run/containerd/containerd.sock"
    )]
    containerd: PathBuf,
    /// The namespace of containerd:// where it names none: k8s.io for Kubernetes, moby for Docker
    #[arg(long, default_value = "default")]
    namespace: String,
    /// The daemon's configuration, for [registry] and [credentials] of docker://; /etc/pontoon/stargz.toml or nydus.toml if
    /// that exists
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Which images of an index are meant.
#[derive(Debug, clap::Args)]
pub(crate) struct Choice {
    /// Only the image for this platform, such as linux/arm64; may be given several times [default: all that are there]
    #[arg(long, value_name = "PLATFORM", conflicts_with = "all_platforms")]
    platform: Vec<Platform>,
    /// The images for all platforms, and none of them may be missing
    #[arg(long)]
    all_platforms: bool,
}

impl Choice {
    pub(crate) fn selection(&self) -> Selection {
        Selection {
            platforms: self.platform.clone(),
            complete: self.all_platforms,
        }
    }
}

/// Where a new image goes.
#[derive(Debug)]
pub(crate) enum Destination {
    /// A directory.
    Layout(NewLayout),
    /// Somewhere else.
    Push(Push),
}

impl Destination {
    pub(crate) fn target(&self) -> &dyn Target {
        match self {
            Destination::Layout(layout) => layout,
            Destination::Push(push) => push,
        }
    }
}

impl Ways {
    /// What reads the image at `place`. Nothing is asked yet, but whether a layout is one.
    ///
    /// To be called inside of a tokio runtime.
    pub(crate) async fn source(
        &self,
        place: &Place,
        stop: &Arc<Stop>,
    ) -> Result<Arc<dyn Source>, Failure> {
        let origin = match place {
            Place::Layout { directory, name } => {
                let layout = Layout::open(directory, name.as_deref());
                let layout = layout.map_err(|error| self.is_it_elsewhere(place, error))?;
                return Ok(Arc::new(layout));
            }
            Place::Registry(reference) => pull::Origin::Registry {
                registry: settings::registry(self.config.as_deref())?,
                reference: reference.clone(),
            },
            Place::Containerd { namespace, image } => {
                let client = self.client(namespace.as_deref())?;
                let image = hydrate::find(&client, image).await?;
                pull::Origin::Containerd {
                    store: client.content(),
                    image,
                }
            }
        };
        Ok(Arc::new(pull::Pull::new(
            origin,
            Handle::current(),
            Arc::clone(stop),
        )))
    }

    /// What takes an image to `to` that is made of the one at `from`.
    ///
    /// To be called inside of a tokio runtime.
    pub(crate) async fn destination(
        &self,
        to: &Place,
        from: &Place,
        progress: &Arc<Progress>,
        stop: &Arc<Stop>,
    ) -> Result<Destination, Failure> {
        let taker = match to {
            Place::Layout { directory, name } => {
                let layout = NewLayout::create(directory, name.as_deref());
                return layout.map(Destination::Layout).map_err(convert::failure);
            }
            Place::Registry(reference) => push::Taker::Registry {
                registry: settings::registry(self.config.as_deref())?,
                reference: reference.clone(),
                from: match from {
                    Place::Registry(from) if from.host() == reference.host() => {
                        Some(from.repository().to_owned())
                    }
                    _ => None,
                },
            },
            Place::Containerd { namespace, image } => {
                let client = self.client(namespace.as_deref())?;
                push::Taker::containerd(&client, image).await?
            }
        };
        let push = Push::new(taker, Arc::clone(progress), Arc::clone(stop));
        Ok(Destination::Push(push))
    }

    fn client(&self, namespace: Option<&str>) -> Result<Client, Failure> {
        let namespace = namespace.unwrap_or(&self.namespace);
        Client::new(&self.containerd, namespace).map_err(hydrate::failure)
    }

    /// Whoever forgets to say that it is in a registry names a directory that is not there.
    fn is_it_elsewhere(&self, place: &Place, error: pontoon_convert::Error) -> Failure {
        let mut failure = convert::failure(error);
        if let Place::Layout { directory, .. } = place
            && !directory.exists()
        {
            let name = directory.display();
            failure.message.push_str(&format!(
                "; an image in a registry is docker://{name}, and one in containerd containerd://{name}"
            ));
        }
        failure
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(text: &str) -> Place {
        text.parse().unwrap()
    }

    fn layout(directory: &str, name: Option<&str>) -> Place {
        Place::Layout {
            directory: directory.into(),
            name: name.map(str::to_owned),
        }
    }

    fn in_containerd(namespace: Option<&str>, image: &str) -> Place {
        Place::Containerd {
            namespace: namespace.map(str::to_owned),
            image: image.to_owned(),
        }
    }

    #[test]
    fn places_are_told_apart() {
        assert_eq!(place("a/b"), layout("a/b", None));
        assert_eq!(place("a:b"), layout("a:b", None));
        assert_eq!(place("oci:a/b"), layout("a/b", None));
        assert_eq!(place("oci:/a:v1:x"), layout("/a", Some("v1:x")));
        assert_eq!(
            place("docker://app").to_string(),
            "docker://docker.io/library/app:latest"
        );
        for (text, namespace, image) in [
            ("debian:12", None, "debian:12"),
            (
                "docker.io/library/debian:12",
                None,
                "docker.io/library/debian:12",
            ),
            ("moby/buildkit:1", None, "moby/buildkit:1"),
            ("localhost:5000/a/b:1", None, "localhost:5000/a/b:1"),
            ("k8s.io/ghcr.io/a/b:1", Some("k8s.io"), "ghcr.io/a/b:1"),
            ("default/localhost/a", Some("default"), "localhost/a"),
        ] {
            let text = format!("containerd://{text}");
            assert_eq!(place(&text), in_containerd(namespace, image));
            assert_eq!(place(&text).to_string(), text);
        }
    }

    #[test]
    fn what_is_no_place_says_what_to_write() {
        for (text, said) in [
            ("http://r.example/a", "docker://"),
            ("oci-archive:a.tar", "skopeo copy"),
            ("docker://A", "image reference"),
            ("containerd://", "containerd://[NAMESPACE/]IMAGE"),
            ("oci:", "no directory"),
            ("oci:a:", "empty name"),
            ("", "no directory"),
        ] {
            let error = text.parse::<Place>().unwrap_err();
            assert!(error.contains(said), "{text}: {error}");
        }
    }
}
