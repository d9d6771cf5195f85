//! Images that are not comparable layer by layer: one of them is a nydus image.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek as _};
use std::path::PathBuf;

use pontoon_layer::Digest;
use pontoon_unpack::{Archive, Expected};

use super::{Check, Layer, Side};
use crate::error::{Error, Result};
use crate::flat::{self, Data, Files};
use crate::manifest::Manifest;
use crate::nydus::{self, Merged};
use crate::place::Counted;

impl Check<'_> {
    /// Compares two images with all their layers together. Of each is given whether it is a nydus image, too.
    pub(super) fn whole(
        &mut self,
        new: &Manifest,
        old: (&[Layer], bool),
        layers: (&[Layer], bool),
    ) -> Result<()> {
        let old_files = self.tree(Side::Old, old)?;
        let new_files = self.tree(Side::New, layers)?;
        self.done.layers += layers.0.len() as u64;
        self.done.files += new_files.len() as u64;
        self.compare(&new.what, &old_files, &new_files, flat::difference);
        Ok(())
    }

    fn tree(&mut self, side: Side, (layers, is_nydus): (&[Layer], bool)) -> Result<Files> {
        if is_nydus {
            return self.nydus(side, layers);
        }
        let (mut tree, mut data) = (Merged::new(), Data::default());
        for layer in layers {
            let of_layer = |error: Error| error.of_layer(&layer.descriptor.digest);
            let mut add = |archive: &mut Archive<pontoon_unpack::Blocks>| {
                flat::layer(archive, &mut tree, &mut data)
            };
            if side == Side::Old {
                self.archive(side, layer, add).map_err(of_layer)?;
                continue;
            }
            let file = self.file(side, layer).map_err(of_layer)?;
            let read = self.archive_in(side, layer, &file, &mut add);
            read.map_err(of_layer)?;
            self.table(layer, &file).map_err(of_layer)?;
        }
        flat::of_layers(&tree, &data)
    }

    /// The files of a nydus image, whose last layer is the bootstrap. Of the new one, everything is verified.
    fn nydus(&mut self, side: Side, layers: &[Layer]) -> Result<Files> {
        let Some((last, blobs)) = layers.split_last() else {
            return Err(Error::malformed("a nydus image", "it has no layers"));
        };
        let of_layer = |error: Error| error.of_layer(&last.descriptor.digest);
        let bytes = self.archive(side, last, nydus::bootstrap);
        let bytes = bytes.map_err(of_layer)?;
        let known: HashMap<&Digest, &Layer> = (blobs.iter())
            .map(|layer| (&layer.descriptor.digest, layer))
            .collect();
        let (image, blobs) = nydus::open_image(&bytes, |digest| {
            let layer = known.get(digest).ok_or_else(|| {
                let reason = format!("it names the blob {digest}, which is no layer");
                Error::malformed("the bootstrap", reason)
            })?;
            let file = self.file(side, layer)?;
            self.reached(side, &layer.descriptor, layer.descriptor.size);
            Ok((file, PathBuf::from(digest.to_string())))
        })?;
        let mut wrong = Vec::new();
        for (blob, digest) in image.blobs.iter().zip(blobs.digests()?) {
            if blob.id != digest.hex() {
                wrong.push(format!("the blob {} has the digest {digest}", blob.id));
            }
        }
        let mut chunks = 0;
        let files = flat::of_tree(&image.tree, |_, node| {
            self.check_cancelled()?;
            Ok(match blobs.data(&image, node)? {
                Ok((digest, count)) => {
                    chunks += count;
                    digest
                }
                Err(reason) => {
                    wrong.push(reason);
                    Digest::of(b"")
                }
            })
        })?;
        if side == Side::New {
            self.done.lazy_layers += image.blobs.len() as u64;
            self.done.chunks += chunks;
        }
        for reason in wrong {
            self.find(reason);
        }
        Ok(files)
    }

    /// Reads the archive of a layer, all digests checked.
    pub(super) fn archive<T>(
        &self,
        side: Side,
        layer: &Layer,
        read: impl FnOnce(&mut Archive<pontoon_unpack::Blocks>) -> Result<T>,
    ) -> Result<T> {
        let reader = self.side(side).source.read(&layer.descriptor)?;
        self.archive_of(side, layer, reader, read)
    }

    /// The same, of a layer in `file`.
    pub(super) fn archive_in<T>(
        &self,
        side: Side,
        layer: &Layer,
        file: &File,
        read: impl FnOnce(&mut Archive<pontoon_unpack::Blocks>) -> Result<T>,
    ) -> Result<T> {
        let path = PathBuf::from(layer.descriptor.digest.to_string());
        let again = file.try_clone().and_then(|mut file| {
            file.rewind()?;
            Ok(file)
        });
        let again = again.map_err(Error::file("cannot read", path))?;
        self.archive_of(side, layer, Box::new(again), read)
    }

    fn archive_of<T>(
        &self,
        side: Side,
        layer: &Layer,
        reader: Box<dyn Read + Send>,
        read: impl FnOnce(&mut Archive<pontoon_unpack::Blocks>) -> Result<T>,
    ) -> Result<T> {
        self.check_cancelled()?;
        let expected = Expected {
            digest: Some(layer.descriptor.digest.clone()),
            size: Some(layer.descriptor.size),
            diff_id: Some(layer.diff_id.clone()),
        };
        let limits = pontoon_unpack::Limits::default().for_blob(layer.descriptor.size);
        let reader = Counted {
            reader,
            offset: 0,
            tell: |offset| self.reached(side, &layer.descriptor, offset),
        };
        let (_, read) = pontoon_unpack::stream(reader, &expected, &limits, |blocks| {
            read(&mut Archive::new(blocks, &limits))
        })?;
        Ok(read)
    }
}
