//! What a layer lies on: where directories that it does not list have their attributes from.

use std::cell::OnceCell;
use std::io;
use std::os::unix::fs::MetadataExt;
#[cfg(test)]
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use pontoon_overlay::Chain;

use crate::below::{self, Below, Layer};
use crate::record::Record;
use crate::trees::Trees;

/// The layers below, nearest first.
#[derive(Debug, Clone)]
pub(crate) struct Parents(Vec<Parent>);

#[derive(Debug, Clone)]
enum Parent {
    /// A lazy layer: the name of its tree, and where that is.
    Lazy(String, Arc<Trees>),
    /// An ordinary one: its id, and its directory.
    Ordinary(String, PathBuf),
}

impl Parents {
    /// The layers of `chain`; those that are lazy have their trees among `trees`.
    pub(crate) fn of(chain: &Chain<'_>, trees: &Arc<Trees>) -> pontoon_snapshot::Result<Self> {
        let mut parents = Vec::new();
        for link in chain.links {
            let Some(record) = &link.layer else {
                let directory = chain.directory(link);
                parents.push(Parent::Ordinary(link.id.to_string(), directory));
                continue;
            };
            // What has no files of its own is no layer below anything.
            if let Some(record) = Record::decode(record)? {
                parents.push(Parent::Lazy(record.tree, Arc::clone(trees)));
            }
        }
        Ok(Parents(parents))
    }

    /// The lazy layer with this tree.
    #[cfg(test)]
    pub(crate) fn lazy(tree: &str, trees: &Arc<Trees>) -> Self {
        Parents(vec![Parent::Lazy(tree.to_owned(), Arc::clone(trees))])
    }

    /// These, and below them `others`.
    #[cfg(test)]
    pub(crate) fn on(mut self, others: Parents) -> Self {
        self.0.extend(others.0);
        self
    }

    /// Ordinary layers in these directories.
    #[cfg(test)]
    pub(crate) fn ordinary(directories: &[&Path]) -> Self {
        let parent = |path: &&Path| Parent::Ordinary("1".to_owned(), path.to_path_buf());
        Parents(directories.iter().map(parent).collect())
    }

    /// A text that stands for exactly these layers: trees never change, ids are never used again.
    pub(crate) fn identity(&self) -> String {
        let names = self.0.iter().map(|parent| match parent {
            Parent::Lazy(tree, _) => format!("tree {tree}"),
            Parent::Ordinary(id, _) => format!("snapshot {id}"),
        });
        names.collect::<Vec<_>>().join(", ")
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Who owns the root directory of the nearest one; root without any. That is whom an ordinary layer's belongs to.
    pub(crate) fn root_owner(&self) -> io::Result<(u32, u32)> {
        match self.0.first() {
            None => Ok((0, 0)),
            Some(Parent::Ordinary(_, directory)) => {
                let stat = std::fs::symlink_metadata(directory)?;
                Ok((stat.uid(), stat.gid()))
            }
            Some(Parent::Lazy(tree, trees)) => {
                let image = below::open(trees, tree)?;
                let root = image.inode(image.root()).map_err(io::Error::other)?;
                Ok((root.uid, root.gid))
            }
        }
    }

    /// The layers, to look for directories in.
    pub(crate) fn below(&self) -> Below<'_> {
        Below::new(self.0.iter().map(Parent::layer).collect())
    }
}

impl Parent {
    fn layer(&self) -> Layer<'_> {
        match self {
            Parent::Lazy(tree, trees) => Layer::Lazy {
                tree,
                trees,
                image: OnceCell::new(),
            },
            Parent::Ordinary(_, directory) => Layer::Ordinary {
                directory,
                root: OnceCell::new(),
            },
        }
    }
}
