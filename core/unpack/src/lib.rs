//! Tar layers into directories for overlayfs, digests checked.
