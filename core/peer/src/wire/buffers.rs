//! Memory that is used again.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

/// So many buffers are kept for later.
const KEPT: usize = 16;

/// Buffers of one size. A new one for each answer would cost more than reading into it: its pages have to be made.
#[derive(Clone)]
pub(crate) struct Buffers {
    size: usize,
    free: Arc<Mutex<Vec<Vec<u8>>>>,
}

/// A buffer, which goes back when it is dropped, and what has to live as long.
pub(crate) struct Buffer<T> {
    bytes: Vec<u8>,
    used: usize,
    home: Buffers,
    _with: T,
}

impl Buffers {
    /// Buffers of `size` bytes.
    pub(crate) fn new(size: usize) -> Buffers {
        Buffers {
            size,
            free: Arc::default(),
        }
    }

    /// A buffer with any content.
    pub(crate) fn take<T>(&self, with: T) -> Buffer<T> {
        let free = self.free.lock();
        let bytes = free.unwrap_or_else(PoisonError::into_inner).pop();
        Buffer {
            bytes: bytes.unwrap_or_else(|| vec![0; self.size]),
            used: 0,
            home: self.clone(),
            _with: with,
        }
    }
}

impl<T: Send + 'static> Buffer<T> {
    /// All of it, to be written into.
    pub(crate) fn space(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// Its first `used` bytes.
    pub(crate) fn into_bytes(mut self, used: usize) -> Bytes {
        self.used = used.min(self.bytes.len());
        Bytes::from_owner(self)
    }
}

impl<T> AsRef<[u8]> for Buffer<T> {
    fn as_ref(&self) -> &[u8] {
        self.bytes.get(..self.used).unwrap_or_default()
    }
}

impl<T> Drop for Buffer<T> {
    fn drop(&mut self) {
        let mut free = self
            .home
            .free
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if free.len() < KEPT {
            free.push(std::mem::take(&mut self.bytes));
        }
    }
}

impl fmt::Debug for Buffers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffers")
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}
