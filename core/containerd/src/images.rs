//! Names of images.

use std::collections::BTreeMap;

use pontoon_proto::images::{self as v1, images_client::ImagesClient};
use pontoon_proto::types;
use prost_types::FieldMask;
use tonic::Code;

use crate::client::{Client, Scoped};
use crate::descriptor::Descriptor;
use crate::error::{Error, Result};

/// More than this, in bytes, no list of images is.
const LIST_BYTES_MAX: usize = 64 << 20;

/// A name, and what it stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// As it was pulled: `docker.io/library/debian:12`.
    pub name: String,
    /// Its manifest, or the index that lists its manifests.
    pub target: Descriptor,
    /// containerd's labels.
    pub labels: BTreeMap<String, String>,
}

/// containerd's images service.
#[derive(Debug, Clone)]
pub struct Images {
    client: Client,
}

impl Images {
    pub(crate) fn new(client: Client) -> Self {
        Images { client }
    }

    /// The image `name`, which is exactly as containerd keeps it.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is none.
    pub async fn get(&self, name: &str) -> Result<Image> {
        let request = v1::GetImageRequest {
            name: name.to_owned(),
        };
        let object = format!("image {name}");
        let mut service = self.service();
        let answer = self
            .client
            .call("reading", &object, service.get(request))
            .await?;
        let operation = format!("reading {object}");
        match answer.image {
            Some(image) => image_from(&operation, image),
            None => Err(Error::nonsense(&operation, "there is no image in it")),
        }
    }

    /// The images that match any of `filters`, in containerd's grammar (`name==docker.io/library/debian:12`); all
    /// without one. What has a target that makes no sense is left out.
    pub async fn list(&self, filters: &[String]) -> Result<Vec<Image>> {
        let request = v1::ListImagesRequest {
            filters: filters.to_vec(),
        };
        let mut service = self.service();
        let answer = self
            .client
            .call("listing", "images", service.list(request))
            .await?;
        let images = answer.images.into_iter().filter_map(|image| {
            let name = image.name.clone();
            image_from("listing images", image)
                .inspect_err(|error| {
                    let error = error as &dyn std::error::Error;
                    tracing::warn!(name, error, "an image of containerd's is left out");
                })
                .ok()
        });
        Ok(images.collect())
    }

    /// Has `name` stand for `target`, whatever it stood for before. What `target` refers to is to be there, with labels that
    /// keep it.
    pub async fn put(&self, name: &str, target: &Descriptor) -> Result<()> {
        let operation = format!("naming image {name}");
        let size = i64::try_from(target.size)
            .map_err(|_| Error::nonsense(&operation, format!("the size is {}", target.size)))?;
        let image = v1::Image {
            name: name.to_owned(),
            target: Some(types::Descriptor {
                media_type: target.media_type.clone(),
                digest: target.digest.to_string(),
                size,
                annotations: target.annotations.clone(),
            }),
            ..v1::Image::default()
        };
        let object = format!("image {name}");
        let create = v1::CreateImageRequest {
            image: Some(image.clone()),
        };
        let mut service = self.service();
        let created = self.client.call("naming", &object, service.create(create));
        match created.await {
            Err(Error::Refused {
                code: Code::AlreadyExists,
                ..
            }) => {}
            other => return other.map(drop),
        }
        let update = v1::UpdateImageRequest {
            image: Some(image),
            update_mask: Some(FieldMask {
                paths: vec!["target".to_owned()],
            }),
        };
        let updated = self.client.call("naming", &object, service.update(update));
        updated.await.map(drop)
    }

    fn service(&self) -> ImagesClient<Scoped> {
        let (channel, scope) = self.client.channel();
        ImagesClient::with_interceptor(channel, scope).max_decoding_message_size(LIST_BYTES_MAX)
    }
}

fn image_from(operation: &str, image: v1::Image) -> Result<Image> {
    let types::Descriptor {
        media_type,
        digest,
        size,
        annotations,
    } = image
        .target
        .ok_or_else(|| Error::nonsense(operation, "the image has no target"))?;
    let digest = digest
        .parse()
        .map_err(|error| Error::nonsense(operation, format!("{error}")))?;
    let size = u64::try_from(size)
        .map_err(|_| Error::nonsense(operation, format!("{digest} has the size {size}")))?;
    Ok(Image {
        name: image.name,
        target: Descriptor {
            media_type,
            digest,
            size,
            annotations,
        },
        labels: image.labels,
    })
}
