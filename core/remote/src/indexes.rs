//! Reads the indexes of the ordinary gzip layers that an image in nydus' form is over: they are beside its bootstrap, or
//! each is a layer of the manifest.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use pontoon_layer::rafs::{Blob, ChunkInfos, IndexBlob};
use pontoon_layer::{FormatError, Limits};
use pontoon_source::{Descriptor, Reference};
use pontoon_unpack::{Archive, Expected, Kind};
use tokio::task::JoinSet;

use crate::bootstrap::file_name;
use crate::nydus::refusal;
use crate::reason::{self, Refusal};
use crate::toc::{Reading, on_a_thread};

/// Files of the bootstrap layer, by their paths.
type Files = HashMap<Vec<u8>, Bytes>;

/// Where the index is in the bootstrap layer, if its writer put it there: nydus-snapshotter's converter does from 0.15 on.
fn path(index: &IndexBlob) -> Vec<u8> {
    format!("image/{}.blob.meta", index.digest.hex()).into_bytes()
}

/// How many bytes the indexes have that `blobs` need. Fails beyond the limit.
pub(crate) fn bytes(blobs: &[Blob], limits: &Limits) -> Result<u64, Refusal> {
    let indexes = blobs.iter().filter_map(|blob| blob.index_blob.as_ref());
    let size = indexes.fold(0, |sum: u64, index| sum.saturating_add(index.index_bytes));
    if size <= limits.toc_json_bytes_max {
        return Ok(size);
    }
    Err(refusal(FormatError::TooLarge {
        what: "the size of the indexes of all gzip layers in bytes".to_owned(),
        size,
        limit: limits.toc_json_bytes_max,
    }))
}

impl Reading {
    /// What the indexes of all gzip layers among `blobs` say; `packed` is the bootstrap layer. Those that are not in it are
    /// fetched at the same time.
    pub(crate) async fn indexes(
        &self,
        reference: &Reference,
        blobs: &[Blob],
        packed: &Bytes,
    ) -> Result<Vec<ChunkInfos>, Refusal> {
        let blobs = blobs.iter().filter(|blob| blob.index_blob.is_some());
        let blobs: Vec<Blob> = blobs.cloned().collect();
        if blobs.is_empty() {
            return Ok(Vec::new());
        }
        let (wanted, packed) = (blobs.clone(), packed.clone());
        let files = on_a_thread(move || files(&packed, &wanted)).await?;
        let files = Arc::new(files);
        let mut reads = JoinSet::new();
        for blob in blobs {
            let (reading, reference) = (self.clone(), reference.clone());
            let files = Arc::clone(&files);
            reads.spawn(async move { reading.index(&reference, blob, &files).await });
        }
        let mut infos = Vec::new();
        while let Some(read) = reads.join_next().await {
            infos.push(read.map_err(|_| Refusal::new(reason::BUG))??);
        }
        Ok(infos)
    }

    async fn index(
        &self,
        reference: &Reference,
        blob: Blob,
        files: &Files,
    ) -> Result<ChunkInfos, Refusal> {
        let Some(index) = &blob.index_blob else {
            return Err(Refusal::new(reason::BUG));
        };
        let limits = self.limits.clone();
        if let Some(file) = files.get(&path(index)) {
            let file = file.clone();
            let read = move || ChunkInfos::of_index_file(&blob, &file, &limits).map_err(refusal);
            return on_a_thread(read).await;
        }
        let descriptor = Descriptor {
            media_type: String::new(),
            digest: index.digest.clone(),
            size: index.size,
            annotations: Default::default(),
        };
        let bytes_max = limits.toc_bytes_max;
        let whole = self.registry.fetch(reference, &descriptor, bytes_max);
        let whole = whole.await.map_err(|error| match error {
            pontoon_source::Error::NotFound { .. } => Refusal::new(reason::NO_BLOB).because(&error),
            error => error.into(),
        })?;
        on_a_thread(move || ChunkInfos::of_index_blob(&blob, &whole, &limits).map_err(refusal))
            .await
    }
}

/// The files in the bootstrap layer `packed` that are the indexes of `blobs`.
fn files(packed: &[u8], blobs: &[Blob]) -> Result<Files, Refusal> {
    let indexes = blobs.iter().filter_map(|blob| blob.index_blob.as_ref());
    let mut wanted: HashMap<Vec<u8>, u64> = indexes
        .map(|index| (path(index), index.file_bytes()))
        .collect();
    let limits = pontoon_unpack::Limits::default().for_blob(packed.len() as u64);
    let found = pontoon_unpack::stream(packed, &Expected::default(), &limits, |blocks| {
        let mut archive = Archive::new(blocks, &limits);
        let mut files = Files::new();
        while !wanted.is_empty()
            && let Some(entry) = archive.next()?
        {
            let name = file_name(&entry.path);
            let is_wanted =
                entry.kind == Kind::File && wanted.get(name).copied() == Some(archive.data_bytes());
            if is_wanted && let Some(size) = wanted.remove(name) {
                let mut bytes = Vec::new();
                archive.read(&mut bytes, usize::try_from(size).unwrap_or(usize::MAX))?;
                files.insert(name.to_vec(), bytes.into());
            }
        }
        Ok(files)
    });
    let found: Result<_, pontoon_unpack::Error> = found;
    let (_, files) = found.map_err(|error| Refusal::new(reason::BAD_BOOTSTRAP).because(&error))?;
    Ok(files)
}
