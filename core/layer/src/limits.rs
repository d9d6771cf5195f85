//! What a layer may ask of us at most.

/// The most that a layer may have of anything. Whatever is beyond is refused before it is parsed, and the layer is not
/// lazy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a compressed table of contents.
    pub toc_bytes_max: u64,
    /// Bytes of the JSON of a table of contents.
    pub toc_json_bytes_max: u64,
    /// Bytes of such JSON that are kept from verifying to parsing: tens of thousands of files. More is inflated again,
    /// so that it is never in memory as a whole.
    pub toc_held_bytes_max: usize,
    /// Entries of a table of contents, chunks included.
    pub entries_max: u32,
    /// Bytes of one string in a table of contents; extended attributes are the longest.
    pub string_bytes_max: usize,
    /// Bytes of one name in a directory: Linux' own limit.
    pub name_bytes_max: usize,
    /// Bytes of a path, or of the target of a symbolic link: Linux' own limit.
    pub path_bytes_max: usize,
    /// Directories inside each other.
    pub depth_max: usize,
    /// Extended attributes of one file.
    pub xattrs_max: usize,
    /// Bytes of the extended attributes of one file, names included: Linux' own limit for one of them.
    pub xattr_bytes_max: usize,
    /// Bytes of all names, targets of symbolic links and different extended attributes of a layer: what its tree keeps
    /// in memory. As many for the paths of all directories that it does not list.
    pub text_bytes_max: u64,
    /// Decompressed bytes of one chunk: it is inflated into memory as a whole.
    pub chunk_bytes_max: u32,
    /// Compressed bytes of what has to be fetched for one chunk.
    pub member_bytes_max: u32,
    /// Decompressed bytes of a compressed stream of which a chunk is a part, up to its last chunk.
    pub member_inflated_bytes_max: u64,
    /// Decompressed bytes of all files of a layer.
    pub data_bytes_max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            toc_bytes_max: 128 << 20,
            toc_json_bytes_max: 768 << 20,
            toc_held_bytes_max: 16 << 20,
            entries_max: 1_250_000,
            string_bytes_max: 128 << 10,
            name_bytes_max: 255,
            path_bytes_max: 4096,
            depth_max: 1024,
            xattrs_max: 256,
            xattr_bytes_max: 64 << 10,
            text_bytes_max: 128 << 20,
            chunk_bytes_max: 64 << 20,
            member_bytes_max: 128 << 20,
            member_inflated_bytes_max: 256 << 20,
            data_bytes_max: 1 << 40,
        }
    }
}
