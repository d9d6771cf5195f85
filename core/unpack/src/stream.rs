//! A blob on its way through: read and inflated on one thread, hashed on another, taken apart on the caller's.

use std::fmt;
use std::io::{self, BufRead, Read};
use std::mem;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender, SyncSender};
use std::thread;

use pontoon_layer::{Algorithm, Digest, Hasher};

use crate::archive::Source;
use crate::error::{Error, Result};
use crate::inflate::Inflater;
use crate::options::{Expected, Limits};

/// Bytes of a block. Large enough that handing it over costs nothing, small enough to stay in a cache.
const BLOCK_BYTES: usize = 256 << 10;

/// Blocks that wait for each of the two takers, at most.
const BLOCKS: usize = 4;

/// What went through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Streamed {
    /// The digest of the blob.
    pub digest: Digest,
    /// The digest of the archive, decompressed.
    pub diff_id: Digest,
    /// Bytes of the blob.
    pub blob_bytes: u64,
    /// Bytes of the archive, decompressed.
    pub archive_bytes: u64,
}

/// Bytes that several threads look at. The last one to drop them gives the buffer back.
type Block = Arc<Buffer>;

struct Buffer {
    bytes: Vec<u8>,
    home: Sender<Vec<u8>>,
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // Nobody takes them back when all is done.
        let _ = self.home.send(mem::take(&mut self.bytes));
    }
}

/// Buffers are used again and again: the allocator would give such large ones back to the kernel each time.
struct Pool {
    home: Sender<Vec<u8>>,
    returned: Receiver<Vec<u8>>,
}

impl Pool {
    fn new() -> Pool {
        let (home, returned) = mpsc::channel();
        Pool { home, returned }
    }

    /// A block with what `reader` gives: as much as fits, unless it ends. `None` at its end.
    fn fill(&self, reader: &mut impl Read) -> io::Result<Option<Block>> {
        let mut bytes = (self.returned.try_recv()).unwrap_or_else(|_| vec![0; BLOCK_BYTES]);
        bytes.resize(BLOCK_BYTES, 0);
        let mut filled = 0;
        while filled < BLOCK_BYTES {
            match reader.read(&mut bytes[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if filled == 0 {
            return Ok(None);
        }
        bytes.truncate(filled);
        Ok(Some(Arc::new(Buffer {
            bytes,
            home: self.home.clone(),
        })))
    }
}

/// What the hashing thread is given.
enum Hashed {
    Blob(Block),
    Archive(Block),
}

/// Runs the blob from `reader` through (gzip, zstd, or not compressed; the first bytes say which) and has `take` read the
/// archive in it, to its end. The first error of `take` counts: it is only by what went through before that `take` fails.
/// What `take` was given is not verified before this returns.
///
/// # Errors
/// Any of `take`'s, among them those of reading; [`Error::Mismatch`] if the blob is not the expected one.
pub fn stream<T, E: From<Error>>(
    reader: impl Read + Send,
    expected: &Expected,
    limits: &Limits,
    take: impl FnOnce(Blocks) -> Result<T, E>,
) -> Result<(Streamed, T), E> {
    let (to_hash, hashed) = mpsc::sync_channel(2 * BLOCKS);
    let (to_take, taken) = mpsc::sync_channel(BLOCKS);
    let algorithm =
        |digest: &Option<Digest>| (digest.as_ref()).map_or(Algorithm::Sha256, Digest::algorithm);
    let algorithms = (algorithm(&expected.digest), algorithm(&expected.diff_id));
    let size = expected.size;
    let archive_bytes_max = limits.archive_bytes_max;
    thread::scope(|scope| {
        let hasher = thread::Builder::new()
            .name("pontoon-hash".to_owned())
            .spawn_scoped(scope, move || hash(&hashed, algorithms))
            .map_err(Error::Thread)?;
        let producer = thread::Builder::new()
            .name("pontoon-inflate".to_owned())
            .spawn_scoped(scope, move || {
                let feed = Feed::new(reader, size, to_hash.clone());
                let produced = produce(feed, archive_bytes_max, &to_hash, &to_take);
                if let Err(error) = produced {
                    // If nobody takes it any more, there is an earlier error.
                    let _ = to_take.send(Err(error));
                }
            })
            .map_err(Error::Thread)?;
        let taken = take(Blocks {
            blocks: taken,
            current: None,
            position: 0,
        });
        let ended = "the threads of an unpacking do not panic";
        producer.join().expect(ended);
        let streamed = hasher.join().expect(ended);
        let taken = taken?;
        if let Some(size) = size
            && size != streamed.blob_bytes
        {
            return Err(E::from(Error::Mismatch {
                what: "the size",
                expected: format!("{size} bytes"),
                actual: format!("{} bytes", streamed.blob_bytes),
            }));
        }
        let digests = [
            ("the digest", &expected.digest, &streamed.digest),
            ("the diff ID", &expected.diff_id, &streamed.diff_id),
        ];
        for (what, expected, actual) in digests {
            Error::check_digest(what, expected.as_ref(), actual)?;
        }
        Ok((streamed, taken))
    })
}

fn hash(blocks: &Receiver<Hashed>, algorithms: (Algorithm, Algorithm)) -> Streamed {
    let (mut blob, mut archive) = (Hasher::new(algorithms.0), Hasher::new(algorithms.1));
    let (mut blob_bytes, mut archive_bytes) = (0, 0);
    for block in blocks {
        match block {
            Hashed::Blob(block) => {
                blob.update(&block.bytes);
                blob_bytes += block.bytes.len() as u64;
            }
            Hashed::Archive(block) => {
                archive.update(&block.bytes);
                archive_bytes += block.bytes.len() as u64;
            }
        }
    }
    Streamed {
        digest: blob.finish(),
        diff_id: archive.finish(),
        blob_bytes,
        archive_bytes,
    }
}

/// Inflates all of `feed`. Ends early, without an error, when nobody takes what comes out.
fn produce<R: Read>(
    mut feed: Feed<R>,
    archive_bytes_max: u64,
    to_hash: &SyncSender<Hashed>,
    to_take: &SyncSender<Result<Block>>,
) -> Result<()> {
    let pool = Pool::new();
    if let Err(error) = feed.fill_buf() {
        return Err(feed.failure.take().unwrap_or(Error::Read(error)));
    }
    let mut inflater = Inflater::new(feed).map_err(Error::Read)?;
    let mut left = archive_bytes_max;
    loop {
        let block =
            match pool.fill(&mut inflater) {
                Ok(Some(block)) => block,
                Ok(None) => return Ok(()),
                Err(error) => {
                    let compression = inflater.name();
                    return Err(inflater.source().failure.take().unwrap_or_else(|| {
                        Error::Damaged {
                            compression,
                            reason: error.to_string(),
                        }
                    }));
                }
            };
        let bytes = block.bytes.len() as u64;
        left = left.checked_sub(bytes).ok_or(Error::TooLarge {
            what: "the decompressed bytes",
            limit: archive_bytes_max,
        })?;
        let hashed = to_hash.send(Hashed::Archive(Arc::clone(&block)));
        if hashed.is_err() || to_take.send(Ok(block)).is_err() {
            return Ok(());
        }
    }
}

/// The blob, block by block, each of which goes to be hashed as well.
struct Feed<R> {
    reader: R,
    pool: Pool,
    current: Option<Block>,
    position: usize,
    to_hash: SyncSender<Hashed>,
    /// Bytes that may still come, and how many that were.
    left: u64,
    size: Option<u64>,
    /// What went wrong here, for which a decoder has only words of its own.
    failure: Option<Error>,
}

impl<R: Read> Feed<R> {
    fn new(reader: R, size: Option<u64>, to_hash: SyncSender<Hashed>) -> Self {
        Feed {
            reader,
            pool: Pool::new(),
            current: None,
            position: 0,
            to_hash,
            left: size.unwrap_or(u64::MAX),
            size,
            failure: None,
        }
    }

    /// Puts the next block in place.
    fn advance(&mut self) -> Result<()> {
        self.current = None;
        self.position = 0;
        let Some(block) = self.pool.fill(&mut self.reader).map_err(Error::Read)? else {
            return Ok(());
        };
        self.left = (self.left)
            .checked_sub(block.bytes.len() as u64)
            .ok_or_else(|| Error::Mismatch {
                what: "the size",
                expected: format!("{} bytes", self.size.unwrap_or_default()),
                actual: "more".to_owned(),
            })?;
        // The hashing thread ends after this one.
        let _ = self.to_hash.send(Hashed::Blob(Arc::clone(&block)));
        self.current = Some(block);
        Ok(())
    }
}

impl<R: Read> BufRead for Feed<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let used_up =
            (self.current.as_ref()).is_none_or(|block| self.position == block.bytes.len());
        if used_up && let Err(error) = self.advance() {
            let text = error.to_string();
            self.failure = Some(error);
            return Err(io::Error::other(text));
        }
        Ok((self.current.as_ref()).map_or(&[], |block| &block.bytes[self.position..]))
    }

    fn consume(&mut self, count: usize) {
        self.position += count;
    }
}

impl<R: Read> Read for Feed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let count = available.len().min(buffer.len());
        buffer[..count].copy_from_slice(&available[..count]);
        self.consume(count);
        Ok(count)
    }
}

/// The archive, block by block.
pub struct Blocks {
    blocks: Receiver<Result<Block>>,
    current: Option<Block>,
    position: usize,
}

impl fmt::Debug for Blocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Blocks").finish_non_exhaustive()
    }
}

impl Source for Blocks {
    fn fill(&mut self) -> Result<&[u8]> {
        let used_up =
            (self.current.as_ref()).is_none_or(|block| self.position == block.bytes.len());
        if used_up {
            self.position = 0;
            self.current = self.blocks.recv().ok().transpose()?;
        }
        Ok((self.current.as_ref()).map_or(&[], |block| &block.bytes[self.position..]))
    }

    fn consume(&mut self, count: usize) {
        self.position += count;
    }
}
