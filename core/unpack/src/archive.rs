//! Reads tar archives, as Go's `archive/tar` does, because that is what made and what unpacks layers elsewhere.
//!
//! The `tar` crate reads long names and extended headers into memory however large they are, and its fast paths copy
//! all data once more.

mod header;
mod pax;
#[cfg(test)]
mod tests;

use pontoon_layer::Time;

use crate::error::{Error, Result};
use crate::options::Limits;
use header::{BLOCK_BYTES, Header};

/// Where the bytes of an archive come from.
pub(crate) trait Source {
    /// What comes next; empty at the end.
    fn fill(&mut self) -> Result<&[u8]>;

    /// Goes on behind the next `count` bytes, at most as many as [`Source::fill`] gave.
    fn consume(&mut self, count: usize);
}

impl Source for &[u8] {
    fn fill(&mut self) -> Result<&[u8]> {
        Ok(self)
    }

    fn consume(&mut self, count: usize) {
        *self = &self[count..];
    }
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Directory,
    File,
    Symlink,
    HardLink,
    CharDevice { major: u32, minor: u32 },
    BlockDevice { major: u32, minor: u32 },
    Fifo,
}

/// One entry of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) kind: Kind,
    /// As it is in the archive, without NUL.
    pub(crate) path: Vec<u8>,
    /// The target of a link, without NUL; else of no meaning.
    pub(crate) target: Vec<u8>,
    /// `0o7777` at most.
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Not before 1970.
    pub(crate) mtime: Time,
    /// Not before `mtime`.
    pub(crate) atime: Time,
    /// In the order of the archive; of the same name, the last.
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// An archive that is read from its beginning to its end.
pub(crate) struct Archive<S> {
    source: S,
    path_bytes_max: usize,
    extension_bytes_max: u64,
    /// Bytes of data of the current entry that were not read.
    data: u64,
    /// Bytes behind them, up to the next block.
    padding: u64,
}

/// What comes before a header and belongs to it.
#[derive(Default)]
struct Extensions {
    pax: pax::Records,
    long_path: Option<Vec<u8>>,
    long_target: Option<Vec<u8>>,
}

impl<S: Source> Archive<S> {
    pub(crate) fn new(source: S, limits: &Limits) -> Self {
        Archive {
            source,
            path_bytes_max: limits.path_bytes_max,
            extension_bytes_max: limits.extension_bytes_max,
            data: 0,
            padding: 0,
        }
    }

    /// The next entry; what was not read of the last one is skipped. `None` at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>> {
        let mut extensions = Extensions::default();
        loop {
            self.skip()?;
            let Some(block) = self.header_block()? else {
                return Ok(None);
            };
            let header = Header::parse(&block)?;
            match header.typeflag {
                b'x' => extensions.pax = pax::Records::parse(&self.extension(&header)?)?,
                // containerd ignores global records.
                b'g' => self.enter(header.size),
                b'L' => extensions.long_path = Some(header::text(&self.extension(&header)?)),
                b'K' => extensions.long_target = Some(header::text(&self.extension(&header)?)),
                _ => return self.entry(header, extensions).map(Some),
            }
        }
    }

    /// Gives the data of the current entry to `take`, piece by piece.
    pub(crate) fn data(&mut self, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        while self.data > 0 {
            let available = self.source.fill()?;
            if available.is_empty() {
                return Err(truncated());
            }
            let count = available
                .len()
                .min(usize::try_from(self.data).unwrap_or(usize::MAX));
            take(&available[..count])?;
            self.source.consume(count);
            self.data -= count as u64;
        }
        Ok(())
    }

    /// Bytes of data of the current entry.
    pub(crate) fn data_bytes(&self) -> u64 {
        self.data
    }

    /// Reads what is behind the archive's end: it belongs to the digests.
    pub(crate) fn drain(&mut self) -> Result<()> {
        loop {
            let count = self.source.fill()?.len();
            if count == 0 {
                return Ok(());
            }
            self.source.consume(count);
        }
    }

    fn entry(&mut self, header: Header, extensions: Extensions) -> Result<Entry> {
        let pax = extensions.pax;
        let path = (extensions.long_path.or(pax.path)).unwrap_or(header.path);
        let target = (extensions.long_target.or(pax.target)).unwrap_or(header.target);
        for text in [&path, &target] {
            if text.len() > self.path_bytes_max {
                return Err(Error::TooLarge {
                    what: "the bytes of a path",
                    limit: self.path_bytes_max as u64,
                });
            }
        }
        if pax.sparse || header.typeflag == b'S' {
            return Err(Error::Unsupported {
                path: String::from_utf8_lossy(&path).into_owned().into(),
                what: "a sparse file".to_owned(),
            });
        }
        let kind = header::kind(header.typeflag, header.device, &path)?;
        let size = pax.size.unwrap_or(header.size);
        // Other entries have no data, whatever their size is said to be.
        self.enter(if kind == Kind::File { size } else { 0 });
        let id = |what: &str, id: u64| {
            // The last one means "as it is" to chown.
            (u32::try_from(id).ok().filter(|id| *id != u32::MAX))
                .ok_or_else(|| Error::archive(&path, format!("{what} {id} is none of Linux'")))
        };
        let mtime = header::bound(pax.mtime.unwrap_or(header.mtime));
        Ok(Entry {
            kind,
            mode: header.mode,
            uid: id("the owner", pax.uid.unwrap_or(header.uid))?,
            gid: id("the group", pax.gid.unwrap_or(header.gid))?,
            mtime,
            atime: header::bound(pax.atime.unwrap_or(mtime)).max(mtime),
            xattrs: pax.xattrs,
            path,
            target,
        })
    }

    /// The data of a header that says something of the next one.
    fn extension(&mut self, header: &Header) -> Result<Vec<u8>> {
        if header.size > self.extension_bytes_max {
            return Err(Error::TooLarge {
                what: "the bytes of a long name or of the extended attributes of one entry",
                limit: self.extension_bytes_max,
            });
        }
        self.enter(header.size);
        let mut bytes = Vec::new();
        self.data(|piece| {
            bytes.extend_from_slice(piece);
            Ok(())
        })?;
        Ok(bytes)
    }

    fn enter(&mut self, size: u64) {
        self.data = size;
        self.padding = size.wrapping_neg() % BLOCK_BYTES as u64;
    }

    /// Goes to the next header.
    fn skip(&mut self) -> Result<()> {
        self.data(|_| Ok(()))?;
        // Go takes an archive that ends without the padding of its last entry.
        while self.padding > 0 {
            let available = self.source.fill()?.len();
            if available == 0 {
                self.padding = 0;
                break;
            }
            let count = available.min(usize::try_from(self.padding).unwrap_or(available));
            self.source.consume(count);
            self.padding -= count as u64;
        }
        Ok(())
    }

    /// The next block; `None` at the end, which is two blocks of zeros, or one, or nothing at all.
    fn header_block(&mut self) -> Result<Option<[u8; BLOCK_BYTES]>> {
        let Some(block) = self.block()? else {
            return Ok(None);
        };
        if block != [0; BLOCK_BYTES] {
            return Ok(Some(block));
        }
        match self.block()? {
            Some(second) if second != [0; BLOCK_BYTES] => Err(Error::archive(
                b"",
                "there is one block of zeros where two end an archive",
            )),
            _ => Ok(None),
        }
    }

    fn block(&mut self) -> Result<Option<[u8; BLOCK_BYTES]>> {
        let mut block = [0; BLOCK_BYTES];
        let mut filled = 0;
        while filled < BLOCK_BYTES {
            let available = self.source.fill()?;
            if available.is_empty() {
                return if filled == 0 {
                    Ok(None)
                } else {
                    Err(truncated())
                };
            }
            let count = available.len().min(BLOCK_BYTES - filled);
            block[filled..filled + count].copy_from_slice(&available[..count]);
            self.source.consume(count);
            filled += count;
        }
        Ok(Some(block))
    }
}

fn truncated() -> Error {
    Error::archive(b"", "it ends in the middle of an entry")
}
