//! Who serves the trees of lazy layers: the kernel's EROFS, or FUSE.

use std::fs;
use std::path::Path;

use pontoon_layer::{Limits, OpaqueXattr, TreeBuilder};
use rustix::io::Errno;
use serde::Serialize;

use crate::Error;

/// Who is to serve the trees of lazy layers. `[lazy] front_end`
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum FrontEnd {
    /// The kernel if it can, else FUSE.
    #[default]
    Auto,
    /// The kernel, from EROFS images (Linux 6.12); an error if it cannot.
    Erofs,
    /// FUSE.
    Fuse,
}

/// Who serves them, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Chosen {
    /// `erofs` or `fuse`.
    pub name: &'static str,
    /// In a sentence.
    pub why: String,
}

const EROFS: &str = "erofs";
const FUSE: &str = "fuse";

/// The longest path that fsconfig(2) takes.
const PATH_BYTES_MAX: usize = 255;

/// The name of a tree: a digest in hexadecimal digits.
const TREE_NAME_BYTES: usize = 64;

impl Chosen {
    /// Whether it is the kernel.
    pub(crate) fn is_erofs(&self) -> bool {
        self.name == EROFS
    }
}

impl FrontEnd {
    /// Who it is for the trees in `trees`, a directory. Tries in `temporary` what the kernel can.
    pub(crate) fn choose(self, trees: &Path, temporary: &Path) -> Result<Chosen, Error> {
        let chosen = |name, why: String| Ok(Chosen { name, why });
        if self == FrontEnd::Fuse {
            return chosen(FUSE, "the configuration says so".to_owned());
        }
        match (can_mount(trees, temporary), self) {
            (Ok(()), FrontEnd::Erofs) => chosen(EROFS, "the configuration says so".to_owned()),
            (Ok(()), _) => chosen(
                EROFS,
                "the kernel mounts EROFS images from files".to_owned(),
            ),
            (Err(reason), FrontEnd::Erofs) => Err(Error::FrontEnd { reason }),
            (Err(reason), _) => chosen(FUSE, reason),
        }
    }
}

/// Whether the kernel mounts EROFS images as ours. Why not, if not.
fn can_mount(trees: &Path, temporary: &Path) -> Result<(), String> {
    if trees.as_os_str().len() + 1 + TREE_NAME_BYTES > PATH_BYTES_MAX {
        return Err(format!(
            "the root is too deep: the kernel takes paths of at most {PATH_BYTES_MAX} bytes for EROFS"
        ));
    }
    let tried = tempfile::tempdir_in(temporary).map_err(|error| error.to_string())?;
    let (image, data) = (tried.path().join("image"), tried.path().join("data"));
    let tree = TreeBuilder::new(OpaqueXattr::Trusted, &Limits::default()).finish();
    let tree = tree.map_err(|error| error.to_string())?;
    let block = [0; 4096];
    let bytes =
        pontoon_erofs::write(&tree, block.len() as u64).map_err(|error| error.to_string())?;
    let written = fs::write(&image, bytes).and_then(|()| fs::write(&data, block));
    written.map_err(|error| format!("the probe of EROFS cannot be written: {error}"))?;
    pontoon_linux::try_erofs(&image, &[&data]).map_err(|error| match error.errno() {
        Some(Errno::NODEV) => "the kernel has no EROFS".to_owned(),
        Some(Errno::NOTBLK) => {
            "the kernel mounts EROFS only from block devices; from files it takes Linux 6.12 with CONFIG_EROFS_FS_BACKED_BY_FILE".to_owned()
        }
        Some(Errno::PERM) => "this process may not mount EROFS".to_owned(),
        _ => format!("the kernel does not mount an EROFS image: {error}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_asked_unless_fuse_is_wanted() {
        let directory = tempfile::tempdir().unwrap();
        let choose = |wanted: FrontEnd, trees: &Path| wanted.choose(trees, directory.path());
        let trees = directory.path().join("trees");
        assert!(!choose(FrontEnd::Fuse, &trees).unwrap().is_erofs());
        let auto = choose(FrontEnd::Auto, &trees).unwrap();
        match choose(FrontEnd::Erofs, &trees) {
            Ok(chosen) => assert!(chosen.is_erofs() && auto.is_erofs()),
            Err(error) => assert!(error.to_string().contains(&auto.why), "{error}: {auto:?}"),
        }
        // Nothing stays behind.
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
        let deep = directory.path().join("deep/".repeat(40));
        let auto = choose(FrontEnd::Auto, &deep).unwrap();
        assert!(
            !auto.is_erofs() && auto.why.contains("too deep"),
            "{auto:?}"
        );
        choose(FrontEnd::Erofs, &deep).unwrap_err();
    }
}
