//! The calls that rustix does not have. All unsafe code of Pontoon is in this file.
#![allow(
    unsafe_code,
    reason = "these system calls have no safe wrapper elsewhere"
)]

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;

use rustix::mount::MountAttrFlags;
use rustix::process::Pid;
use rustix::thread::UnshareFlags;

/// What [`mount_setattr`] changes.
#[derive(Debug)]
pub(crate) struct MountChange<'fd> {
    pub(crate) set: MountAttrFlags,
    pub(crate) clear: MountAttrFlags,
    /// Maps the mount through this user namespace.
    pub(crate) user_namespace: Option<BorrowedFd<'fd>>,
    /// Changes the mounts below as well.
    pub(crate) recursive: bool,
}

impl MountChange<'_> {
    pub(crate) fn flags(set: MountAttrFlags, clear: MountAttrFlags) -> Self {
        MountChange {
            set,
            clear,
            user_namespace: None,
            recursive: false,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.set.is_empty() && self.clear.is_empty() && self.user_namespace.is_none()
    }
}

/// The kernel's `struct mount_attr`, first version (linux/mount.h).
#[repr(C)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

/// `mount_setattr(2)`, Linux 5.12, on the mount that `mount` is the root of.
pub(crate) fn mount_setattr(mount: BorrowedFd<'_>, change: &MountChange<'_>) -> io::Result<()> {
    let mut attr = MountAttr {
        attr_set: u64::from(change.set.bits()),
        attr_clr: u64::from(change.clear.bits()),
        propagation: 0,
        userns_fd: 0,
    };
    if let Some(namespace) = change.user_namespace {
        attr.attr_set |= u64::from(MountAttrFlags::MOUNT_ATTR_IDMAP.bits());
        attr.userns_fd = namespace.as_raw_fd() as u64;
    }
    let recursive = if change.recursive {
        libc::AT_RECURSIVE
    } else {
        0
    };
    // SAFETY: the path is a NUL-terminated constant, `attr` is a live struct of the layout and the size that the
    // kernel is told, and the kernel keeps neither pointer after the call.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | recursive,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    };
    if answer == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// A child process that does nothing but be, in a user namespace of its own. Killed and reaped on drop.
#[derive(Debug)]
pub(crate) struct IdleChild {
    pub(crate) pid: Pid,
    handle: OwnedFd,
}

/// The kernel's `struct clone_args`, first version (linux/sched.h).
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
}

impl IdleChild {
    /// Starts the child in a new user namespace whose maps are still empty.
    ///
    /// It takes no signal handler along, sends no SIGCHLD and shares the table of file descriptors instead of
    /// keeping a lock or a connection open, so that the rest of the process does not see it.
    pub(crate) fn in_new_user_namespace() -> io::Result<Self> {
        let mut handle: RawFd = -1;
        let args = CloneArgs {
            flags: (libc::CLONE_NEWUSER | libc::CLONE_PIDFD | libc::CLONE_FILES) as u64
                | CLONE_CLEAR_SIGHAND,
            pidfd: (&raw mut handle) as u64,
            ..CloneArgs::default()
        };
        // SAFETY: getpid has no precondition.
        let parent = unsafe { libc::getpid() };
        // SAFETY: without CLONE_VM and with no stack this is fork: the child goes on with a copy of this memory.
        // `args` is a live struct of the layout and the size that the kernel is told; it writes `handle`, which
        // outlives the call. In the child only `idle` runs, which makes system calls and nothing else.
        let pid =
            unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>()) };
        match pid {
            0 => idle(parent),
            -1 => return Err(io::Error::last_os_error()),
            _ => {}
        }
        // SAFETY: the kernel has just opened `handle` for this process, and nobody else owns it.
        let handle = unsafe { OwnedFd::from_raw_fd(handle) };
        let pid = Pid::from_raw(pid as i32).ok_or(io::ErrorKind::InvalidData)?;
        Ok(IdleChild { pid, handle })
    }
}

impl Drop for IdleChild {
    fn drop(&mut self) {
        let _ = rustix::process::pidfd_send_signal(&self.handle, rustix::process::Signal::KILL);
        // SAFETY: all zeros is a valid siginfo_t, and waitid writes it through a live pointer. __WALL because the
        // child has no exit signal. Nobody else waits for this child, and if somebody did, this is an error.
        unsafe {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            let id = self.handle.as_raw_fd() as libc::id_t;
            let options = libc::WEXITED | libc::__WALL;
            while libc::waitid(libc::P_PIDFD, id, &raw mut info, options) == -1
                && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted
            {}
        }
    }
}

/// Handlers of the parent do not run in the child (linux/sched.h).
const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;

/// The whole life of the child: wait to be killed, at the latest when the parent's thread ends.
fn idle(parent: libc::pid_t) -> ! {
    // SAFETY: after a fork from a process of many threads only async-signal-safe calls are allowed; prctl,
    // getppid, ppoll and _exit are, and they use no memory of ours.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        // The parent may have ended before the line above. A child of pid 0 has a parent outside its pid namespace.
        while libc::getppid() == parent {
            libc::ppoll(std::ptr::null_mut(), 0, std::ptr::null(), std::ptr::null());
        }
        libc::_exit(0)
    }
}

/// Gives the calling thread a mount namespace, and so a current directory, of its own.
pub(crate) fn unshare_mounts() -> io::Result<()> {
    // SAFETY: NEWNS and FS leave the table of file descriptors shared, which is what makes unsharing unsafe.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::FS) }?;
    Ok(())
}

/// Pages of a file, mapped for reading. Unmapped on drop.
#[derive(Debug)]
pub(crate) struct Pages {
    /// Page-aligned, and not null.
    start: NonNull<u8>,
    /// Not zero.
    length: usize,
}

// SAFETY: the pages are only read, and munmap may be called from any thread.
unsafe impl Send for Pages {}
// SAFETY: as above; shared references only read.
unsafe impl Sync for Pages {}

impl Pages {
    /// Maps the first `length` bytes of `file`; `length` must not be zero.
    ///
    /// Whoever calls this sees to it that nobody writes to the file or cuts it off while it is mapped: what is
    /// read may then change under the reader, or kill the process (SIGBUS).
    pub(crate) fn of(file: BorrowedFd<'_>, length: usize) -> io::Result<Self> {
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length,
                libc::PROT_READ,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Pages { start, length })
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: the mapping is readable, `length` bytes long and there until drop; mmap refuses lengths beyond
        // isize::MAX, and any bytes are valid. That they do not change is the promise of whoever called `of`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: exactly what mmap answered, and no reference into it outlives `self`.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.length) };
    }
}

/// Makes the descriptor `target`, which somebody else owns, another one of what `source` is, closed on exec (dup3(2)).
/// Who owns it owns it still, and uses what it has become from the next call on.
pub(crate) fn replace(target: RawFd, source: BorrowedFd<'_>) -> io::Result<()> {
    loop {
        // SAFETY: takes numbers only. That nobody but the owner of `target` is in for a surprise is seen to by whoever
        // calls this.
        let answer = unsafe { libc::dup3(source.as_raw_fd(), target, libc::O_CLOEXEC) };
        match answer {
            -1 => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => {}
                error => return Err(error),
            },
            _ => return Ok(()),
        }
    }
}

/// What is open as `number`, by the device and the inode it is on; `None` if nothing is.
pub(crate) fn identity(number: RawFd) -> Option<(u64, u64)> {
    if number < 0 {
        return None;
    }
    // SAFETY: it is used for one fstat(2), which is an error if nothing is open under the number.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    let stat = rustix::fs::fstat(borrowed).ok()?;
    Some((stat.st_dev, stat.st_ino))
}

/// `mallopt(3)` with `M_ARENA_MAX`; false where the allocator is not glibc's, or refuses.
pub(crate) fn limit_malloc_arenas(arenas_max: i32) -> bool {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes two integers and keeps neither; glibc takes its own lock around it.
    return unsafe { libc::mallopt(libc::M_ARENA_MAX, arenas_max) } == 1;
    #[cfg(not(target_env = "gnu"))]
    {
        let _ = arenas_max;
        false
    }
}

/// `malloc_trim(3)`; false where the allocator is not glibc's, or has nothing to give.
pub(crate) fn trim_malloc() -> bool {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes one integer; what is allocated stays where it is, and glibc takes its own locks.
    return unsafe { libc::malloc_trim(0) } == 1;
    #[cfg(not(target_env = "gnu"))]
    false
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Write};
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn a_child_keeps_no_file_open() {
        let (reader, mut writer) = io::pipe().unwrap();
        let child = IdleChild::in_new_user_namespace().unwrap();
        drop(reader);
        // Another test may be starting a program, which has the reader until its exec.
        let deadline = Instant::now() + Duration::from_secs(5);
        while let Ok(1) = writer.write(b"x") {
            assert!(Instant::now() < deadline, "the child keeps the reader open");
            std::thread::sleep(Duration::from_millis(1));
        }
        let error = writer.write(b"x").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BrokenPipe);
        drop(child);
    }

    #[test]
    fn a_child_is_gone_with_its_value() {
        let child = IdleChild::in_new_user_namespace().unwrap();
        let process = format!("/proc/{}", child.pid.as_raw_nonzero());
        assert!(std::fs::exists(&process).unwrap());
        drop(child);
        assert!(!std::fs::exists(&process).unwrap());
    }
}
