//! The kernel's numbers of nodes.
//!
//! A node of a layer is its number in the layer's tree image below the layer's own number, so it is the same after
//! every restart and nothing has to be remembered. It is also the inode number that programs see: layers of one
//! overlay must not share those.

use pontoon_lazyfs::tree::Nid;

use crate::layers::LAYER_NUMBERS;

/// Something that the kernel can ask about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Node {
    /// The directory of the layers.
    Root,
    /// An empty file beside them, see [`crate::server`].
    Opener,
    /// In this layer, a file or directory of its own.
    Tree(u32, Nid),
    /// All data of this layer as one file, beside its directory.
    Data(u32),
    /// In this layer, the directory of its state.
    StateDirectory(u32),
    /// In this layer, the file of its state.
    StateFile(u32),
}

/// Bits of a number in a tree image.
const NID_BITS: u32 = 40;
const NID_MASK: u64 = (1 << NID_BITS) - 1;

/// Numbers that no image of less than 32 TiB uses.
const STATE_DIRECTORY: u64 = NID_MASK;
const STATE_FILE: u64 = NID_MASK - 1;
const DATA: u64 = NID_MASK - 2;

const ROOT: u64 = 1;
const OPENER: u64 = 2;

impl Node {
    /// What the kernel's `number` stands for.
    pub(crate) fn from_number(number: u64) -> Option<Self> {
        let layer = u32::try_from(number >> NID_BITS).ok()?;
        if layer == 0 {
            return match number {
                ROOT => Some(Node::Root),
                OPENER => Some(Node::Opener),
                _ => None,
            };
        }
        Some(match number & NID_MASK {
            STATE_DIRECTORY => Node::StateDirectory(layer),
            STATE_FILE => Node::StateFile(layer),
            DATA => Node::Data(layer),
            nid => Node::Tree(layer, Nid::new(nid)),
        })
    }

    pub(crate) fn number(self) -> u64 {
        let of = |layer: u32, nid: u64| u64::from(layer) << NID_BITS | nid & NID_MASK;
        match self {
            Node::Root => ROOT,
            Node::Opener => OPENER,
            Node::Tree(layer, nid) => of(layer, nid.get()),
            Node::StateDirectory(layer) => of(layer, STATE_DIRECTORY),
            Node::StateFile(layer) => of(layer, STATE_FILE),
            Node::Data(layer) => of(layer, DATA),
        }
    }
}

/// What the name of a layer's data file ends with, behind the layer's number.
const DATA_SUFFIX: &[u8] = b".data";

/// The name of the data file of the layer `number`, below the mount.
pub fn data_name(number: u32) -> String {
    format!("{number}{}", DATA_SUFFIX.escape_ascii())
}

/// The number of the layer whose data file has this name.
pub(crate) fn data_number(name: &[u8]) -> Option<u32> {
    layer_number(name.strip_suffix(DATA_SUFFIX)?)
}

/// The number of the layer whose directory has this name.
pub(crate) fn layer_number(name: &[u8]) -> Option<u32> {
    // One name for one layer: no signs, no leading zeros.
    if !matches!(name, [b'1'..=b'9', rest @ ..] if rest.iter().all(u8::is_ascii_digit)) {
        return None;
    }
    let number = std::str::from_utf8(name).ok()?.parse().ok()?;
    LAYER_NUMBERS.contains(&number).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_node_is_found_by_its_number() {
        let last = *LAYER_NUMBERS.end();
        for node in [
            Node::Root,
            Node::Opener,
            Node::Tree(1, Nid::new(36)),
            Node::Tree(last, Nid::new(DATA - 1)),
            Node::Data(1),
            Node::Data(last),
            Node::StateDirectory(1),
            Node::StateFile(last),
        ] {
            assert_eq!(Node::from_number(node.number()), Some(node));
        }
        assert_eq!(Node::from_number(0), None);
        assert_eq!(Node::from_number(36), None);
    }

    #[test]
    fn a_layer_has_one_name() {
        assert_eq!(layer_number(b"1"), Some(1));
        assert_eq!(layer_number(b"16777215"), Some(*LAYER_NUMBERS.end()));
        for name in ["", "0", "01", "+1", "16777216", "99999999999", "1a", "."] {
            assert_eq!(layer_number(name.as_bytes()), None, "{name}");
            assert_eq!(
                data_number(format!("{name}.data").as_bytes()),
                None,
                "{name}"
            );
        }
        assert_eq!(data_name(7), "7.data");
        assert_eq!(data_number(b"7.data"), Some(7));
        assert_eq!(data_number(b"7"), None);
    }
}
