//! Bytes of files, and of layers as a whole.

use std::cell::RefCell;

use fuser::{Errno, ReplyData};
use pontoon_lazyfs::tree::Nid;
use pontoon_lazyfs::{LazyLayer, PendingRead, Read, Result};

use super::{BLOCK_BYTES, Layered, REQUEST_BYTES_MAX};
use crate::operations::count;

/// The size of a layer's data file, in bytes: the kernel's EROFS reads whole blocks, and gets an error for the last one
/// if it is cut off.
pub(super) fn data_bytes(layer: &LazyLayer) -> u64 {
    let bytes = layer.cached().chunks().data_size();
    bytes.next_multiple_of(BLOCK_BYTES.into())
}

thread_local! {
    /// Where reads are put together that are answered at once. As large as the largest one.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Layered {
    /// Answers bytes of a file.
    pub(super) fn read_tree(
        &self,
        number: u32,
        nid: Nid,
        offset: u64,
        size: u32,
        reply: ReplyData,
    ) {
        let Ok(layer) = self.layer(number) else {
            return reply.error(Errno::ESTALE);
        };
        let size = size.min(REQUEST_BYTES_MAX) as usize;
        self.answer([size, 0], reply, |buffer| layer.read(nid, offset, buffer));
    }

    /// Answers bytes of a layer's data file.
    pub(super) fn read_data(&self, number: u32, offset: u64, size: u32, reply: ReplyData) {
        let Ok(layer) = self.layer(number) else {
            return reply.error(Errno::ESTALE);
        };
        let up_to = |end: u64| {
            let bytes = end.saturating_sub(offset).min(REQUEST_BYTES_MAX.into());
            (bytes as usize).min(size as usize)
        };
        let data = up_to(layer.cached().chunks().data_size());
        let zeros = up_to(data_bytes(&layer)) - data;
        self.answer([data, zeros], reply, |buffer| match buffer {
            [] => Ok(Read::Ready(0)),
            buffer => layer.read_data(offset, buffer),
        });
    }

    /// Answers what `read` puts into a buffer of so many bytes, and so many zeros behind it: now, or when it has come.
    fn answer(
        &self,
        [size, zeros]: [usize; 2],
        reply: ReplyData,
        read: impl FnOnce(&mut [u8]) -> Result<Read>,
    ) {
        BUFFER.with_borrow_mut(|buffer| {
            buffer.resize((size + zeros).max(buffer.len()), 0);
            let Some(into) = buffer.get_mut(..size) else {
                return reply.error(Errno::EIO);
            };
            match read(into) {
                Ok(Read::Ready(bytes)) => {
                    let end = bytes + zeros;
                    if let Some(behind) = buffer.get_mut(bytes..end) {
                        behind.fill(0);
                    }
                    reply.data(buffer.get(..end).unwrap_or_default());
                }
                Ok(Read::Pending(pending)) => self.answer_later(pending, zeros, reply),
                // The layer has logged it: a line for each read would flood the log.
                Err(_) => {
                    count(&self.counters.read_failed);
                    reply.error(Errno::EIO);
                }
            }
        });
    }

    fn answer_later(&self, pending: PendingRead, zeros: usize, reply: ReplyData) {
        count(&self.counters.read_waited);
        let counters = self.counters.clone();
        self.runtime.spawn(async move {
            match pending.await {
                Ok(bytes) if zeros == 0 => reply.data(&bytes),
                Ok(bytes) => {
                    let mut bytes = bytes.to_vec();
                    bytes.resize(bytes.len() + zeros, 0);
                    reply.data(&bytes);
                }
                // The same.
                Err(_) => {
                    count(&counters.read_failed);
                    reply.error(Errno::EIO);
                }
            }
        });
    }
}
