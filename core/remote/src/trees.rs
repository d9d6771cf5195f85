//! The trees' files: none is mapped before all of it was read.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use pontoon_erofs::Image;
use pontoon_linux::Map;

use crate::durable;

/// Bytes that are read at once.
const STEP_BYTES: usize = 256 << 10;

/// The directory of the trees.
#[derive(Debug)]
pub(crate) struct Trees {
    directory: PathBuf,
    /// Those that were read and found whole, or written, since the start.
    sound: Mutex<BTreeSet<String>>,
}

impl Trees {
    pub(crate) fn open(directory: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&directory)?;
        Ok(Trees {
            directory,
            sound: Mutex::default(),
        })
    }

    /// The tree `name`, mapped. Reads all of it the first time, since nobody knows what a crash or the disk has made of
    /// it. [`io::ErrorKind::InvalidData`] if it is not what was written.
    pub(crate) fn map(&self, name: &str) -> io::Result<Map> {
        let mut file = File::open(self.path(name))?;
        let is_sound = self.sound().contains(name);
        if !is_sound {
            // A sector that the disk cannot read is an error here. In a mapping it is a signal that ends the daemon,
            // and every layer of the node with it, again at each start.
            read_through(&mut file)?;
        }
        let map = Map::of(&file).map_err(|error| error.source)?;
        if is_sound {
            return Ok(map);
        }
        let damaged = |error| io::Error::new(io::ErrorKind::InvalidData, error);
        let image = Image::open(&*map).map_err(damaged)?;
        image.verify().map_err(damaged)?;
        self.sound().insert(name.to_owned());
        Ok(map)
    }

    /// Whether the tree `name` is here and as it was written.
    pub(crate) fn is_sound(&self, name: &str) -> bool {
        if self.sound().contains(name) {
            return self.exists(name);
        }
        match self.map(name) {
            Ok(_) => true,
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => {
                tracing::warn!(tree = name, %error, "the tree of a layer is damaged; making it again");
                false
            }
        }
    }

    pub(crate) fn exists(&self, name: &str) -> bool {
        self.path(name).exists()
    }

    /// Writes a tree, in place of what is there.
    pub(crate) fn write(&self, name: &str, image: &[u8]) -> io::Result<()> {
        durable::write(&self.path(name), image)?;
        self.sound().insert(name.to_owned());
        Ok(())
    }

    /// Deletes a tree. It is no error if it is not there.
    pub(crate) fn remove(&self, name: &str) -> io::Result<()> {
        self.sound().remove(name);
        match fs::remove_file(self.path(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    }

    /// All that are here, damaged or not.
    pub(crate) fn names(&self) -> io::Result<Vec<String>> {
        durable::names(&self.directory)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        Path::new(&self.directory).join(name)
    }

    fn sound(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.sound.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read_through(file: &mut impl Read) -> io::Result<()> {
    let mut step = vec![0; STEP_BYTES];
    loop {
        match file.read(&mut step) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> Vec<u8> {
        let layer = crate::fixture::layer(&["etc/", "etc/name"]);
        pontoon_erofs::write(&layer.tree, layer.chunks.data_size()).unwrap()
    }

    #[test]
    fn a_tree_is_mapped_only_if_it_is_what_was_written() {
        let directory = tempfile::tempdir().unwrap();
        let open = || Trees::open(directory.path().join("trees")).unwrap();
        let image = image();
        open().write("0a", &image).unwrap();
        assert_eq!(*open().map("0a").unwrap(), *image);
        for at in [1100, image.len() / 2, image.len() - 1] {
            let mut damaged = image.clone();
            damaged[at] ^= 1;
            fs::write(open().path("0a"), &damaged).unwrap();
            let error = open().map("0a").unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{at}");
            assert!(!open().is_sound("0a"));
        }
        fs::write(open().path("0a"), &image[..image.len() / 2]).unwrap();
        open().map("0a").unwrap_err();
        let trees = open();
        assert!(!trees.is_sound("0a"));
        trees.write("0a", &image).unwrap();
        assert!(trees.is_sound("0a"));
        trees.remove("0a").unwrap();
        assert!(!trees.is_sound("0a"));
    }

    #[test]
    fn what_the_disk_cannot_read_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let trees = Trees::open(directory.path().join("trees")).unwrap();
        // Nothing is at address 0: EIO.
        std::os::unix::fs::symlink("/proc/self/mem", trees.path("0a")).unwrap();
        let error = trees.map("0a").unwrap_err();
        assert_eq!(
            error.raw_os_error(),
            Some(rustix::io::Errno::IO.raw_os_error())
        );
        assert!(!trees.is_sound("0a"));
    }
}
