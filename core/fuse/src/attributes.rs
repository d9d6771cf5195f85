//! Attributes, as the kernel wants them.

use std::time::{Duration, SystemTime};

use fuser::{FileAttr, INodeNo};
use pontoon_lazyfs::tree::{FileType, Inode, Time};

use crate::node::Node;

/// For ever: the kernel cuts it down to what it can count.
pub(crate) const FOR_EVER: Duration = Duration::from_secs(u32::MAX as u64);

/// Not remembered.
pub(crate) const NOT_AT_ALL: Duration = Duration::ZERO;

pub(crate) fn of_inode(node: Node, inode: &Inode) -> FileAttr {
    let time = system_time(inode.mtime);
    FileAttr {
        size: inode.size,
        blocks: inode.size.div_ceil(512),
        // Images have no other times than this one.
        mtime: time,
        atime: time,
        ctime: time,
        crtime: time,
        perm: inode.mode,
        nlink: inode.links,
        uid: inode.uid,
        gid: inode.gid,
        rdev: inode.rdev,
        ..blank(node, kind(inode.file_type))
    }
}

/// The attributes of something of ours: root's, and readable for others only if `perm` says so.
pub(crate) fn of_ours(
    node: Node,
    kind: fuser::FileType,
    perm: u16,
    size: u64,
    time: SystemTime,
) -> FileAttr {
    FileAttr {
        size,
        blocks: size.div_ceil(512),
        perm,
        nlink: if kind == fuser::FileType::Directory {
            2
        } else {
            1
        },
        mtime: time,
        ctime: time,
        atime: time,
        ..blank(node, kind)
    }
}

/// For a name that does not exist: with node number 0 the kernel remembers that.
pub(crate) fn of_nothing() -> FileAttr {
    FileAttr {
        ino: INodeNo(0),
        ..blank(Node::Root, fuser::FileType::RegularFile)
    }
}

fn blank(node: Node, kind: fuser::FileType) -> FileAttr {
    FileAttr {
        ino: INodeNo(node.number()),
        size: 0,
        blocks: 0,
        atime: SystemTime::UNIX_EPOCH,
        mtime: SystemTime::UNIX_EPOCH,
        ctime: SystemTime::UNIX_EPOCH,
        crtime: SystemTime::UNIX_EPOCH,
        kind,
        perm: 0,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

pub(crate) fn kind(file_type: FileType) -> fuser::FileType {
    match file_type {
        FileType::File => fuser::FileType::RegularFile,
        FileType::Directory => fuser::FileType::Directory,
        FileType::CharDevice => fuser::FileType::CharDevice,
        FileType::BlockDevice => fuser::FileType::BlockDevice,
        FileType::Fifo => fuser::FileType::NamedPipe,
        FileType::Socket => fuser::FileType::Socket,
        FileType::Symlink => fuser::FileType::Symlink,
    }
}

fn system_time(time: Time) -> SystemTime {
    let seconds = Duration::from_secs(time.seconds.unsigned_abs());
    let whole = match time.seconds {
        0.. => SystemTime::UNIX_EPOCH.checked_add(seconds),
        _ => SystemTime::UNIX_EPOCH.checked_sub(seconds),
    };
    whole
        .and_then(|whole| whole.checked_add(Duration::from_nanos(time.nanoseconds.into())))
        .unwrap_or(SystemTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_keep_their_nanoseconds() {
        let time = |seconds, nanoseconds| {
            system_time(Time {
                seconds,
                nanoseconds,
            })
        };
        let epoch = SystemTime::UNIX_EPOCH;
        assert_eq!(time(0, 1), epoch + Duration::from_nanos(1));
        assert_eq!(time(-1, 999_999_999), epoch - Duration::from_nanos(1));
        assert_eq!(
            time(-62_135_596_800, 0),
            epoch - Duration::from_secs(62_135_596_800)
        );
        // Never a panic, whatever the image says.
        time(i64::MIN, 0);
        time(i64::MAX, 999_999_999);
    }
}
