//! nydus images: only the bootstrap becomes another one.

use pontoon_unpack::{Archive, Expected};
use serde_json::{Value, json};

use super::Wanted;
use crate::error::{Error, Result};
use crate::image::{Conversion, Opened};
use crate::manifest::{LAYER_GZIP, describe, set};
use crate::nydus;
use crate::place::Descriptor;

impl Conversion<'_> {
    /// Puts the order into a nydus image. Answers how many files of it are there.
    pub(super) fn optimize_nydus(
        &mut self,
        wanted: Wanted<'_>,
        mut opened: Opened,
        manifest: &mut Value,
        what: &str,
    ) -> Result<Option<u64>> {
        let Wanted { order, how } = wanted;
        if how.level.is_some() || how.chunk_bytes.is_some() {
            return Err(Error::Option(format!(
                "{what} is of a nydus image, whose blobs stay as they are: leave out the level and the size of chunks, or convert the image again with them"
            )));
        }
        let (Some(value), Some(diff_id)) = (opened.layers.last(), opened.diff_ids.last()) else {
            return Ok(None);
        };
        let descriptor = Descriptor::parse(value, what)?;
        let reader = self.open_layer(&descriptor)?;
        let limits = pontoon_unpack::Limits::default().for_blob(descriptor.size);
        let expected = Expected {
            digest: Some(descriptor.digest.clone()),
            size: Some(descriptor.size),
            diff_id: Some(diff_id.clone()),
        };
        let mut files = 0;
        let replaced = pontoon_unpack::stream(reader, &expected, &limits, |blocks| {
            let mut archive = Archive::recording(blocks, &limits);
            nydus::replace_bootstrap(&mut archive, |bootstrap| {
                let (bootstrap, found) = nydus::put_prefetch_table(bootstrap, &order.paths)?;
                files = found;
                Ok(bootstrap)
            })
        });
        let (from, layer) = replaced.map_err(|error| error.of_layer(&descriptor.digest))?;
        if files == 0 {
            self.nothing_of_it(order, what);
            return Ok(None);
        }
        let new = self.put(LAYER_GZIP, &layer.bytes)?;
        self.done.layers += 1;
        self.done.bytes_before += from.blob_bytes;
        self.done.bytes_after += new.size;
        if let Some(last) = opened.layers.last_mut() {
            describe(last, &new);
        }
        let blobs = opened.layers.len() - 1;
        for value in &opened.layers[..blobs] {
            self.copy(&Descriptor::parse(value, what)?)?;
        }
        let mut new_ids: Vec<Value> = (opened.diff_ids.iter())
            .map(|id| json!(id.to_string()))
            .collect();
        if let Some(last) = new_ids.last_mut() {
            *last = json!(layer.diff_id.to_string());
        }
        let layers = std::mem::take(&mut opened.layers);
        set(manifest, "layers", Value::Array(layers));
        self.configure(&mut opened, new_ids, manifest)?;
        Ok(Some(files))
    }
}
