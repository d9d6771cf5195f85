//! A directory for a test, whose mounts go away with it.

use std::fs;
use std::path::{Path, PathBuf};

use pontoon_linux::{DeviceReads, Map, Mounter, SystemMounter, mount_erofs};
use pontoon_snapshot::Mount;
use rustix::mount::UnmountFlags;

use crate::sample::Sample;

pub(crate) struct Site {
    root: tempfile::TempDir,
}

/// An image and its data in files.
pub(crate) struct Files {
    pub(crate) image: PathBuf,
    pub(crate) data: PathBuf,
}

impl Files {
    pub(crate) fn map(&self) -> pontoon_erofs::Image<Map> {
        pontoon_erofs::Image::open(Map::open(&self.image).unwrap()).unwrap()
    }
}

impl Site {
    pub(crate) fn new() -> Self {
        Site {
            root: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn dir(&self, name: &str) -> PathBuf {
        let path = self.root.path().join(name);
        fs::create_dir_all(&path).unwrap();
        path
    }

    pub(crate) fn store(&self, name: &str, sample: &Sample) -> Files {
        let files = Files {
            image: self.root.path().join(format!("{name}.image")),
            data: self.root.path().join(format!("{name}.data")),
        };
        fs::write(&files.image, sample.image()).unwrap();
        sample.store_data(&fs::File::create(&files.data).unwrap());
        files
    }

    /// Mounts an image by the kernel. The data may be somewhere else meanwhile.
    pub(crate) fn mount(&self, name: &str, files: &Files) -> PathBuf {
        let target = self.dir(name);
        mount_erofs(&files.image, &[&files.data], DeviceReads::Buffered, &target)
            .unwrap_or_else(|error| panic!("{error}: {}; needs Linux 6.12 and root", error.source));
        target
    }

    /// Mounts an overlay of these directories, the topmost first. Its inode numbers are those of the layers, if
    /// overlayfs can tell the layers apart (`xino`).
    pub(crate) fn overlay(&self, name: &str, lower: &[&Path]) -> PathBuf {
        let lower: Vec<&str> = lower.iter().map(|path| path.to_str().unwrap()).collect();
        let mount = Mount {
            fs_type: "overlay".to_owned(),
            source: "overlay".to_owned(),
            target: String::new(),
            options: vec![
                "xino=on".to_owned(),
                format!("lowerdir={}", lower.join(":")),
                format!("upperdir={}", self.dir(&format!("{name}-upper")).display()),
                format!("workdir={}", self.dir(&format!("{name}-work")).display()),
            ],
        };
        let target = self.dir(name);
        SystemMounter.mount(&mount, &target).unwrap();
        target
    }

    fn mounts(&self) -> Vec<String> {
        let all = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let root = self.root.path().to_str().unwrap();
        let targets = all.lines().filter_map(|line| line.split(' ').nth(4));
        targets
            .filter(|target| target.starts_with(root))
            .map(str::to_owned)
            .collect()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        for target in self.mounts().iter().rev() {
            let _ = rustix::mount::unmount(target, UnmountFlags::DETACH);
        }
    }
}
