//! Unix sockets that carry packets, each with at most one file descriptor along (unix(7), `SCM_RIGHTS`).

use std::ffi::OsStr;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout, socket_peercred};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
    accept_with, bind, connect, listen, recvmsg, sendmsg, socket_with, socketpair,
};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 16;

/// Descriptors for which there is room. More than one is never asked for, and what comes beyond is closed.
const DESCRIPTORS_MAX: usize = 4;

/// One end of a connection, or a socket that is listened on. Packets arrive whole, in order, or not at all.
#[derive(Debug)]
pub struct PacketSocket(OwnedFd);

/// What has arrived.
#[derive(Debug)]
pub struct Packet {
    /// How many bytes of the buffer it has filled.
    pub length: usize,
    /// The descriptor that came along, closed on exec.
    pub descriptor: Option<OwnedFd>,
}

/// Who is at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Its process, when it connected.
    pub pid: u32,
    /// Its user.
    pub uid: u32,
}

impl PacketSocket {
    /// Listens at `path`, which must not exist and is for its owner only.
    pub fn listen(path: &Path) -> io::Result<Self> {
        let socket = new_socket()?;
        with_address(path, |address| bind(&socket, address))?;
        rustix::fs::chmod(path, Mode::from(0o600))?;
        listen(&socket, BACKLOG)?;
        Ok(PacketSocket(socket))
    }

    /// Connects to who listens at `path`. An error of kind `NotFound` or `ConnectionRefused` says that nobody does.
    pub fn connect(path: &Path) -> io::Result<Self> {
        let socket = new_socket()?;
        with_address(path, |address| connect(&socket, address))?;
        Ok(PacketSocket(socket))
    }

    /// Two ends of one connection.
    pub fn pair() -> io::Result<(Self, Self)> {
        let flags = SocketFlags::CLOEXEC;
        let (one, other) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        Ok((PacketSocket(one), PacketSocket(other)))
    }

    /// The next connection.
    pub fn accept(&self) -> io::Result<Self> {
        Ok(PacketSocket(accept_with(&self.0, SocketFlags::CLOEXEC)?))
    }

    /// Has [`send`](Self::send) and [`receive`](Self::receive) fail with `WouldBlock` after this time.
    pub fn set_patience(&self, patience: Duration) -> io::Result<()> {
        set_socket_timeout(&self.0, Timeout::Recv, Some(patience))?;
        set_socket_timeout(&self.0, Timeout::Send, Some(patience))?;
        Ok(())
    }

    /// Sends one packet. That the other end is gone is an error, never a signal.
    pub fn send(&self, bytes: &[u8], descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let descriptors: Vec<BorrowedFd<'_>> = descriptor.into_iter().collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
            return Err(Errno::NOBUFS.into());
        }
        let bytes = [IoSlice::new(bytes)];
        retry(|| sendmsg(&self.0, &bytes, &mut control, SendFlags::NOSIGNAL))?;
        Ok(())
    }

    /// Waits for a packet. `None` if the other end is gone; `InvalidData` if the packet is larger than `buffer`.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<Packet>> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = retry(|| {
            let mut into = [IoSliceMut::new(buffer)];
            recvmsg(&self.0, &mut into, &mut control, RecvFlags::CMSG_CLOEXEC)
        });
        let received = match received {
            Err(Errno::CONNRESET) => return Ok(None),
            received => received?,
        };
        let mut descriptors = control
            .drain()
            .filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
                _ => None,
            })
            .flatten();
        let descriptor = descriptors.next();
        drop(descriptors);
        if received.flags.contains(ReturnFlags::TRUNC) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        // An empty packet is never sent, so this is the end.
        Ok((received.bytes > 0).then_some(Packet {
            length: received.bytes,
            descriptor,
        }))
    }

    /// Who connected.
    pub fn peer(&self) -> io::Result<Peer> {
        let credentials = socket_peercred(&self.0)?;
        Ok(Peer {
            pid: credentials.pid.as_raw_nonzero().get().unsigned_abs(),
            uid: credentials.uid.as_raw(),
        })
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<PacketSocket> for OwnedFd {
    fn from(socket: PacketSocket) -> Self {
        socket.0
    }
}

fn new_socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC;
    Ok(socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        flags,
        None,
    )?)
}

/// Names `path` by its directory's descriptor: an address has room for 107 bytes only.
fn with_address(
    path: &Path,
    act: impl FnOnce(&SocketAddrUnix) -> Result<(), Errno>,
) -> io::Result<()> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(directory, flags, Mode::empty())?;
    let short = Path::new("/proc/self/fd")
        .join(OsStr::new(&directory.as_raw_fd().to_string()))
        .join(name);
    act(&SocketAddrUnix::new(short)?)?;
    Ok(())
}

fn retry<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            answer => return answer,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn packets_arrive_whole_and_with_a_descriptor() {
        let directory = tempfile::tempdir().unwrap();
        // Longer than an address may be.
        let deep = directory.path().join("x".repeat(120));
        std::fs::create_dir(&deep).unwrap();
        let path = deep.join("socket");
        assert_eq!(
            PacketSocket::connect(&path).unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
        let listener = PacketSocket::listen(&path).unwrap();
        let client = PacketSocket::connect(&path).unwrap();
        let server = listener.accept().unwrap();
        assert_eq!(server.peer().unwrap().pid, std::process::id());
        let (mut reader, mut writer) = io::pipe().unwrap();
        client.send(b"first", Some(writer.as_fd())).unwrap();
        client.send(b"second", None).unwrap();
        let mut buffer = [0; 16];
        let packet = server.receive(&mut buffer).unwrap().unwrap();
        assert_eq!(&buffer[..packet.length], b"first");
        let mut given = File::from(packet.descriptor.unwrap());
        let packet = server.receive(&mut buffer).unwrap().unwrap();
        assert_eq!(&buffer[..packet.length], b"second");
        assert!(packet.descriptor.is_none());
        writer.write_all(b"a").unwrap();
        given.write_all(b"b").unwrap();
        drop((given, writer));
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "ab");
        client.send(&[1; 17], None).unwrap();
        let large = server.receive(&mut buffer).unwrap_err();
        assert_eq!(large.kind(), io::ErrorKind::InvalidData);
        drop(server);
        assert!(client.receive(&mut buffer).unwrap().is_none());
        client.send(b"x", None).unwrap_err();
        drop(listener);
        assert_eq!(
            PacketSocket::connect(&path).unwrap_err().kind(),
            io::ErrorKind::ConnectionRefused
        );
    }
}
