//! What an image consists of, as far as its documents are here.

use std::collections::{BTreeMap, BTreeSet};

use pontoon_containerd::{Client, ContentStore, Descriptor, Image};
use pontoon_layer::Digest;
use pontoon_source::Reference;

use super::document::{self, Document};
use super::failure;
use crate::failure::Failure;

/// An index may list indexes, whose entries are manifests.
const DEPTH_MAX: usize = 2;

/// The label that says in which repositories of a registry a blob is (containerd, `pkg/labels`).
pub(super) const SOURCE: &str = "containerd.io/distribution.source.";

/// What is to be there in the end.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// The documents that need labels to keep what they refer to.
    pub(super) labels: Vec<(Digest, BTreeMap<String, String>)>,
    /// Configurations and layers, each once.
    pub(super) blobs: Vec<Descriptor>,
    /// Where they are, the most likely place first.
    pub(super) sources: Vec<Reference>,
    /// Manifests of other platforms that were not pulled.
    pub(super) absent: usize,
    /// Layers that no registry gives away.
    pub(super) foreign: usize,
}

/// The image that `name` stands for, as containerd has it or as Docker would complete it.
pub(crate) async fn find(client: &Client, name: &str) -> Result<Image, Failure> {
    let images = client.images();
    let error = match images.get(name).await {
        Ok(image) => return Ok(image),
        Err(error) => error,
    };
    let whole = Reference::parse(name).map(|reference| reference.to_string());
    match whole {
        Ok(whole) if error.is_not_found() && whole != name => {
            images.get(&whole).await.map_err(failure)
        }
        _ => Err(failure(error)),
    }
}

impl Plan {
    /// Reads the documents of `image` out of `store`.
    pub(super) async fn of(image: &Image, store: &ContentStore) -> Result<Self, Failure> {
        let mut plan = Plan::default();
        let mut seen = BTreeSet::new();
        let mut open = vec![(image.target.clone(), 0)];
        while let Some((descriptor, depth)) = open.pop() {
            let Some(info) = store.info(&descriptor.digest).await.map_err(failure)? else {
                plan.absent += 1;
                continue;
            };
            plan.learn_sources(&info.labels);
            let bytes = store.blob(&descriptor, document::BYTES_MAX).await;
            let document = Document::parse(&bytes.map_err(failure)?).map_err(|reason| {
                let message = format!("{} of {}: {reason}", descriptor.digest, image.name);
                Failure::new(1, message)
            })?;
            let labels = document.missing_labels(&info.labels);
            if !labels.is_empty() {
                plan.labels.push((descriptor.digest, labels));
            }
            for child in document.children() {
                if !seen.insert(child.digest.clone()) {
                    continue;
                }
                match child {
                    child if document::is_foreign(&child.media_type) => plan.foreign += 1,
                    child if matches!(document, Document::Manifest { .. }) => {
                        plan.blobs.push(child.clone());
                    }
                    child if depth < DEPTH_MAX && document::is_document(&child.media_type) => {
                        open.push((child.clone(), depth + 1));
                    }
                    _ => {}
                }
            }
        }
        if plan.blobs.is_empty() {
            let message = format!(
                "containerd has the name {}, but no manifest of it; pull it again",
                image.name
            );
            return Err(Failure::new(1, message));
        }
        plan.prefer(&image.name);
        Ok(plan)
    }

    /// The digests of the layers, the lowest first.
    pub(super) fn layers(&self) -> Vec<String> {
        let layers = self.blobs.iter();
        let layers = layers.filter(|blob| document::is_layer(&blob.media_type));
        layers.map(|layer| layer.digest.to_string()).collect()
    }

    /// containerd notes on what it pulled where it came from: an image may have another name since.
    fn learn_sources(&mut self, labels: &BTreeMap<String, String>) {
        for (label, repositories) in labels {
            let Some(host) = label.strip_prefix(SOURCE) else {
                continue;
            };
            for repository in repositories.split(',') {
                if let Ok(source) = Reference::parse(&format!("{host}/{repository}"))
                    && !self.sources.iter().any(|known| is_same(known, &source))
                {
                    self.sources.push(source);
                }
            }
        }
    }

    /// The repository of the image's own name goes first, unless it is known to come from elsewhere.
    fn prefer(&mut self, name: &str) {
        let Ok(own) = Reference::parse(name) else {
            return;
        };
        let known = self.sources.iter().position(|source| is_same(source, &own));
        match known {
            // With the port, which the label does not have.
            Some(at) => {
                self.sources.remove(at);
                self.sources.insert(0, own);
            }
            None => self.sources.push(own),
        }
    }
}

/// The host of a registry as containerd has it in labels: without its port (`core/remotes/docker/handler.go`).
pub(super) fn host_in_label(reference: &Reference) -> &str {
    let host = reference.host();
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

fn is_same(one: &Reference, other: &Reference) -> bool {
    host_in_label(one) == host_in_label(other) && one.repository() == other.repository()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(labels: &[(&str, &str)], name: &str) -> Vec<String> {
        let mut plan = Plan::default();
        let labels = labels
            .iter()
            .map(|(host, repositories)| (format!("{SOURCE}{host}"), (*repositories).to_owned()));
        plan.learn_sources(&labels.collect());
        plan.prefer(name);
        let known = plan.sources.iter();
        let known = known.map(|source| format!("{}/{}", source.host(), source.repository()));
        known.collect()
    }

    #[test]
    fn blobs_are_looked_for_where_they_came_from() {
        let labels = [
            ("example.com", "b,a"),
            ("docker.io", "library/x"),
            ("a b", "c"),
        ];
        let found = sources(&labels, "example.com:5000/a:1");
        assert_eq!(
            found,
            ["example.com:5000/a", "docker.io/library/x", "example.com/b"]
        );
        let found = sources(&labels, "localhost/renamed:1");
        assert_eq!(found.last().unwrap(), "localhost/renamed");
        assert_eq!(found.len(), 4);
        assert_eq!(sources(&[], "x"), ["docker.io/library/x"]);
        assert!(sources(&[], "A B").is_empty());
    }
}
