//! Reads tar archives, as Go's `archive/tar` does, because that is what made and what unpacks layers elsewhere.
//!
//! The `tar` crate reads long names and extended headers into memory however large they are, and its fast paths copy
//! all data once more.

mod header;
mod pax;
#[cfg(test)]
mod tests;

use std::{fmt, mem};

use pontoon_layer::Time;

use crate::error::{Error, Result};
use crate::options::Limits;
use header::{BLOCK_BYTES, Header};

/// Where the bytes of an archive come from.
pub trait Source {
    /// What comes next; empty at the end.
    ///
    /// # Errors
    /// Whatever keeps it from coming.
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
pub enum Kind {
    /// A directory.
    Directory,
    /// A regular file.
    File,
    /// A symbolic link.
    Symlink,
    /// Another name of a file.
    HardLink,
    /// A character device, or a whiteout.
    CharDevice {
        /// Of which driver.
        major: u32,
        /// Which of the driver's.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Of which driver.
        major: u32,
        /// Which of the driver's.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
}

/// What an archive says of an entry literally, where unpacking takes something else for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// With the bits of the file's type, which some programs write.
    pub mode: u64,
    /// In bytes; links may have one too.
    pub size: u64,
    /// When the content was changed, perhaps before 1970.
    pub mtime: Time,
    /// When it was read.
    pub atime: Option<Time>,
    /// When anything of it was changed.
    pub ctime: Option<Time>,
    /// Major and minor number, of every kind of entry.
    pub device: (u64, u64),
}

/// One entry of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What it is.
    pub kind: Kind,
    /// As it is in the archive, without NUL.
    pub path: Vec<u8>,
    /// The target of a link, without NUL; else of no meaning.
    pub target: Vec<u8>,
    /// `0o7777` at most.
    pub mode: u16,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// Not before 1970.
    pub mtime: Time,
    /// Not before `mtime`.
    pub atime: Time,
    /// In the order of the archive; of the same name, the last.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// What the archive says literally.
    pub stored: Stored,
}

/// An archive that is read from its beginning to its end.
pub struct Archive<S> {
    source: S,
    path_bytes_max: usize,
    extension_bytes_max: u64,
    /// Bytes of data of the current entry that were not read.
    data: u64,
    /// Bytes behind them, up to the next block.
    padding: u64,
    /// What was read that is no file's data, for who wants it.
    raw: Option<Vec<u8>>,
    /// Whether a global header was read.
    global: bool,
}

/// How many long names and the like may come before one entry that is recorded, in bytes: this many times the most that
/// one of them may have.
const RAW_FACTOR: u64 = 4;

impl<S> fmt::Debug for Archive<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Archive")
            .field("data", &self.data)
            .field("padding", &self.padding)
            .finish_non_exhaustive()
    }
}

/// What comes before a header and belongs to it.
#[derive(Default)]
struct Extensions {
    pax: pax::Records,
    long_path: Option<Vec<u8>>,
    long_target: Option<Vec<u8>>,
}

impl<S: Source> Archive<S> {
    /// The archive that `source` gives.
    pub fn new(source: S, limits: &Limits) -> Self {
        Archive {
            source,
            path_bytes_max: limits.path_bytes_max,
            extension_bytes_max: limits.extension_bytes_max,
            data: 0,
            padding: 0,
            raw: None,
            global: false,
        }
    }

    /// The archive that `source` gives, all bytes of which somebody wants: [`Archive::take_raw`] has those that are no
    /// file's data.
    pub fn recording(source: S, limits: &Limits) -> Self {
        Archive {
            raw: Some(Vec::new()),
            ..Archive::new(source, limits)
        }
    }

    /// What was read since the last call and is no file's data, as it is in the archive: headers, what belongs to them,
    /// padding, and the blocks of the end.
    pub fn take_raw(&mut self) -> Vec<u8> {
        self.raw.as_mut().map(mem::take).unwrap_or_default()
    }

    /// Whether there was a global header so far.
    pub fn has_global(&self) -> bool {
        self.global
    }

    /// The next entry; what was not read of the last one is skipped. `None` at the end.
    ///
    /// # Errors
    /// Any of the source's; [`Error::Archive`], [`Error::Unsupported`] and [`Error::TooLarge`] for what is in it.
    #[expect(
        clippy::should_implement_trait,
        reason = "an iterator would go on after an error"
    )]
    pub fn next(&mut self) -> Result<Option<Entry>> {
        let mut extensions = Extensions::default();
        loop {
            self.skip()?;
            let Some(block) = self.header_block()? else {
                return Ok(None);
            };
            let header = Header::parse(&block)?;
            match header.typeflag {
                b'x' => extensions.pax = pax::Records::parse(&self.extension(&header)?)?,
                b'g' => self.global(&header)?,
                b'L' => extensions.long_path = Some(header::text(&self.extension(&header)?)),
                b'K' => extensions.long_target = Some(header::text(&self.extension(&header)?)),
                _ => return self.entry(header, extensions).map(Some),
            }
        }
    }

    /// Gives the data of the current entry to `take`, piece by piece.
    ///
    /// # Errors
    /// Any of the source's or of `take`'s; [`Error::Archive`] if the archive ends before.
    pub fn data(&mut self, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
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

    /// Appends data of the current entry to `bytes`, at most `count` bytes.
    ///
    /// # Errors
    /// Any of the source's; [`Error::Archive`] if the archive ends before.
    pub fn read(&mut self, bytes: &mut Vec<u8>, count: usize) -> Result<()> {
        let mut left = self.data.min(count as u64);
        // What is announced need not come: memory is taken for what is there.
        while left > 0 {
            let available = self.source.fill()?;
            if available.is_empty() {
                return Err(truncated());
            }
            let count = (available.len()).min(usize::try_from(left).unwrap_or(usize::MAX));
            bytes.extend_from_slice(&available[..count]);
            self.source.consume(count);
            self.data -= count as u64;
            left -= count as u64;
        }
        Ok(())
    }

    /// Bytes of data of the current entry that were not read yet.
    pub fn data_bytes(&self) -> u64 {
        self.data
    }

    /// Reads what is behind the archive's end: it belongs to the digests.
    ///
    /// # Errors
    /// Any of the source's.
    pub fn drain(&mut self) -> Result<()> {
        loop {
            let count = self.source.fill()?.len();
            if count == 0 {
                return Ok(());
            }
            self.source.consume(count);
        }
    }

    /// Appends what is behind the archive's end to `bytes`, at most `count` bytes. Nothing, if that was all.
    ///
    /// # Errors
    /// Any of the source's.
    pub fn rest(&mut self, bytes: &mut Vec<u8>, count: usize) -> Result<()> {
        let mut left = count;
        while left > 0 {
            let available = self.source.fill()?;
            if available.is_empty() {
                break;
            }
            let count = available.len().min(left);
            bytes.extend_from_slice(&available[..count]);
            self.source.consume(count);
            left -= count;
        }
        Ok(())
    }

    /// containerd ignores global records.
    fn global(&mut self, header: &Header) -> Result<()> {
        self.global = true;
        match self.raw {
            Some(_) => self.extension(header).map(drop),
            None => {
                self.enter(header.size);
                Ok(())
            }
        }
    }

    fn record(&mut self, bytes: &[u8]) -> Result<()> {
        let Some(raw) = &mut self.raw else {
            return Ok(());
        };
        let limit = self.extension_bytes_max.saturating_mul(RAW_FACTOR);
        if (raw.len() + bytes.len()) as u64 > limit {
            return Err(Error::TooLarge {
                what: "the bytes of all headers of one entry",
                limit,
            });
        }
        raw.extend_from_slice(bytes);
        Ok(())
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
            stored: Stored {
                mode: header.stored_mode,
                size,
                mtime: pax.mtime.unwrap_or(header.mtime),
                atime: pax.atime.or(header.atime),
                ctime: pax.ctime.or(header.ctime),
                device: header.device,
            },
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
        self.record(&bytes)?;
        Ok(bytes)
    }

    fn enter(&mut self, size: u64) {
        self.data = size;
        self.padding = size.wrapping_neg() % BLOCK_BYTES as u64;
    }

    /// Goes to the next header, over what was not read of the current entry and its padding.
    ///
    /// # Errors
    /// Any of the source's; [`Error::Archive`] if the archive ends in the middle of the data.
    pub fn skip(&mut self) -> Result<()> {
        self.data(|_| Ok(()))?;
        // Go takes an archive that ends without the padding of its last entry.
        while self.padding > 0 {
            let available = self.source.fill()?;
            if available.is_empty() {
                self.padding = 0;
                break;
            }
            let count = (available.len()).min(usize::try_from(self.padding).unwrap_or(BLOCK_BYTES));
            if let Some(raw) = &mut self.raw {
                raw.extend_from_slice(&available[..count]);
            }
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
        self.record(&block)?;
        Ok(Some(block))
    }
}

fn truncated() -> Error {
    Error::archive(b"", "it ends in the middle of an entry")
}
