//! Unpacks an ordinary layer while containerd waits.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use pontoon_unpack::{Error, Expected, Limits, Options};

use crate::download::Download;
use crate::image::{Image, Part};
use crate::parents::Parents;
use crate::reason::{self, Refusal};
use crate::remote::Shared;

/// Unpacks `part` into `directory`, synced, before `deadline`.
pub(crate) fn unpack(
    shared: &Arc<Shared>,
    image: &Arc<Image>,
    part: &Part,
    parents: &Parents,
    directory: &Path,
    deadline: Option<Instant>,
) -> Result<(), Refusal> {
    let slow = || Refusal::for_now(reason::SLOW_LAYER);
    let configured = image.configuration(shared);
    let download = part.download(shared, image);
    let download = download.wait_until(&shared.runtime, deadline);
    let download = download.ok_or_else(slow)??;
    let configured = configured.wait_until(&shared.runtime, deadline);
    let diff_ids = &configured.ok_or_else(slow)??.diff_ids;
    let diff_id = diff_ids.get(part.index).cloned().ok_or_else(|| Refusal {
        detail: Some("the image's configuration has fewer layers than its manifest".to_owned()),
        ..Refusal::new(reason::UNPACK_FAILED)
    })?;
    let below = parents.below();
    let cancel = Arc::new(AtomicBool::new(false));
    let _alarm = deadline.map(|deadline| Alarm::set(shared, deadline, &cancel));
    let options = Options {
        expected: Expected {
            digest: Some(part.descriptor.digest.clone()),
            size: Some(part.descriptor.size),
            diff_id: Some(diff_id),
        },
        opaque: shared.config.opaque,
        below: &|path| below.directory(path),
        limits: Limits::default().for_blob(part.descriptor.size),
        sync: true,
        cancel: Some(&cancel),
    };
    let mut download = download;
    let mut unpacked = pontoon_unpack::unpack(download.reader(deadline), directory, &options);
    if let Err(Error::Mismatch { .. } | Error::Damaged { .. } | Error::Archive { .. }) = unpacked
        && let Some(other) = elsewhere(shared, &download, part, directory, deadline)
    {
        download = other;
        unpacked = pontoon_unpack::unpack(download.reader(deadline), directory, &options);
    }
    // Whatever came of it: nobody wants the bytes again.
    part.stop_download();
    match unpacked {
        Ok(_) => Ok(()),
        Err(Error::Cancelled) => Err(slow()),
        Err(Error::Read(error)) if error.kind() == io::ErrorKind::TimedOut => Err(slow()),
        Err(error) => Err(download.failure().unwrap_or_else(|| {
            let transient = error.is_out_of_space();
            Refusal {
                transient,
                ..Refusal::new(reason::UNPACK_FAILED).because(&error)
            }
        })),
    }
}

/// The layer from somebody else, if what came is damaged and there is somebody else. Empties `directory`.
fn elsewhere(
    shared: &Shared,
    download: &Arc<Download>,
    part: &Part,
    directory: &Path,
    deadline: Option<Instant>,
) -> Option<Arc<Download>> {
    let digest = &part.descriptor.digest;
    let again = || {
        if !download.is_damaged(digest, deadline)? {
            // The image itself makes no sense.
            return Ok(None);
        }
        let other = download.elsewhere(&shared.runtime, &shared.temporary)?;
        if other.is_some() {
            empty(directory)?;
        }
        Ok(other)
    };
    again().unwrap_or_else(|error: io::Error| {
        tracing::warn!(layer = %digest, %error, "a layer that came damaged is not fetched again");
        None
    })
}

fn empty(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => fs::remove_dir_all(entry.path())?,
            false => fs::remove_file(entry.path())?,
        }
    }
    Ok(())
}

/// Sets a flag at a moment, unless it is dropped before.
struct Alarm(tokio::task::AbortHandle);

impl Alarm {
    fn set(shared: &Shared, at: Instant, flag: &Arc<AtomicBool>) -> Self {
        let flag = Arc::clone(flag);
        let task = shared.runtime.spawn(async move {
            tokio::time::sleep_until(at.into()).await;
            flag.store(true, Ordering::Relaxed);
        });
        Alarm(task.abort_handle())
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        self.0.abort();
    }
}
