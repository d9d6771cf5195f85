//! One connection to a holder.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use pontoon_linux::PacketSocket;

use crate::protocol::{
    DONE, ENTRIES, ENTRY, FORGET, HELLO, KEEP, LIST, NOTE, PACKET_BYTES_MAX, REFUSED, Reader,
    SERVE, WELCOME, Writer,
};
use crate::{Error, Result, SOCKET};

/// How long the holder may take to answer, which takes it microseconds.
const ANSWER_PATIENCE: Duration = Duration::from_secs(5);

/// A connection to the holder of a directory.
#[derive(Debug)]
pub struct Client {
    socket: PacketSocket,
    directory: PathBuf,
}

/// Something to be kept.
#[derive(Debug, Clone, Copy)]
pub struct Keep<'a> {
    /// Its name; one with the same name is replaced.
    pub name: &'a str,
    /// What a successor needs to know, in a form that only daemons understand.
    pub state: &'a [u8],
    /// For how long it is kept when nobody serves.
    pub patience: Duration,
    /// The number of the FUSE connection, or 0: then closing the descriptor has to be enough to end it.
    pub connection: u32,
    /// What the holder's log says when it gives it up.
    pub advice: &'a str,
}

/// What is kept.
#[derive(Debug)]
pub struct Held {
    /// Under which name.
    pub name: String,
    /// What was noted about it.
    pub state: Vec<u8>,
    /// The descriptor.
    pub device: OwnedFd,
}

/// Who the holder is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Welcome {
    /// What it speaks, see [`PROTOCOL`](crate::PROTOCOL).
    pub protocol: u32,
    /// Its process.
    pub pid: u32,
    /// The version of Pontoon that it is of.
    pub version: String,
    /// How many descriptors it keeps.
    pub kept: u32,
}

impl Client {
    /// Connects to the holder of `directory`. `None` if there is none.
    pub fn connect(directory: &Path) -> Result<Option<Self>> {
        let lost = |source| Error::Lost {
            directory: directory.to_owned(),
            source,
        };
        let socket = match PacketSocket::connect(&directory.join(SOCKET)) {
            Ok(socket) => socket,
            Err(error) => {
                return match error.kind() {
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Ok(None),
                    _ => Err(lost(error)),
                };
            }
        };
        socket.set_patience(ANSWER_PATIENCE).map_err(lost)?;
        Ok(Some(Client {
            socket,
            directory: directory.to_owned(),
        }))
    }

    /// Asks who it is.
    pub fn hello(&self) -> Result<Welcome> {
        self.ask(&Writer::new(HELLO), None)?;
        let (packet, _) = self.answer()?;
        let read = || {
            let mut reader = Reader::new(&packet).filter(|reader| reader.kind == WELCOME)?;
            Some(Welcome {
                protocol: reader.number()?,
                pid: reader.number()?,
                version: reader.text()?,
                kept: reader.number()?,
            })
        };
        read().ok_or_else(|| self.garbled())
    }

    /// Has it keep another descriptor of what `device` is.
    pub fn keep(&self, keep: &Keep<'_>, device: BorrowedFd<'_>) -> Result<()> {
        let patience = u64::try_from(keep.patience.as_millis()).unwrap_or(u64::MAX);
        let packet = Writer::new(KEEP)
            .field(keep.name.as_bytes())
            .field(keep.state)
            .field(&patience.to_le_bytes())
            .number(keep.connection)
            .field(keep.advice.as_bytes());
        self.done(&packet, Some(device))
    }

    /// Changes what is noted about what is kept as `name`.
    pub fn note(&self, name: &str, state: &[u8], connection: u32) -> Result<()> {
        let packet = Writer::new(NOTE).field(name.as_bytes()).field(state);
        self.done(&packet.number(connection), None)
    }

    /// Everything that it keeps. It goes on keeping it.
    pub fn list(&self) -> Result<Vec<Held>> {
        self.ask(&Writer::new(LIST), None)?;
        let (packet, _) = self.answer()?;
        let mut reader = Reader::new(&packet).filter(|reader| reader.kind == ENTRIES);
        let count = reader.as_mut().and_then(Reader::number);
        let count = count.ok_or_else(|| self.garbled())?;
        let mut all = Vec::new();
        for _ in 0..count {
            let (packet, device) = self.answer()?;
            let read = || {
                let mut reader = Reader::new(&packet).filter(|reader| reader.kind == ENTRY)?;
                Some(Held {
                    name: reader.text()?,
                    state: reader.field()?.to_vec(),
                    device: device?,
                })
            };
            all.push(read().ok_or_else(|| self.garbled())?);
        }
        Ok(all)
    }

    /// Tells it that somebody serves what it keeps, until this connection ends.
    pub fn serve(&self) -> Result<()> {
        self.done(&Writer::new(SERVE), None)
    }

    /// Has it close what it keeps as `name`. It is no error if there is nothing.
    pub fn forget(&self, name: &str) -> Result<()> {
        self.done(&Writer::new(FORGET).field(name.as_bytes()), None)
    }

    fn done(&self, packet: &Writer, device: Option<BorrowedFd<'_>>) -> Result<()> {
        self.ask(packet, device)?;
        let (answer, _) = self.answer()?;
        match Reader::new(&answer) {
            Some(reader) if reader.kind == DONE => Ok(()),
            _ => Err(self.garbled()),
        }
    }

    fn ask(&self, packet: &Writer, device: Option<BorrowedFd<'_>>) -> Result<()> {
        if packet.bytes().len() > PACKET_BYTES_MAX {
            let reason = format!("a message has at most {PACKET_BYTES_MAX} bytes");
            return Err(Error::Refused { reason });
        }
        let sent = self.socket.send(packet.bytes(), device);
        sent.map_err(|source| self.lost(source))
    }

    /// The next answer, unless it is a refusal.
    fn answer(&self) -> Result<(Vec<u8>, Option<OwnedFd>)> {
        let mut buffer = vec![0; PACKET_BYTES_MAX];
        let packet = self.socket.receive(&mut buffer);
        let packet = packet.map_err(|source| self.lost(source))?;
        let packet = packet.ok_or_else(|| self.lost(io::ErrorKind::UnexpectedEof.into()))?;
        buffer.truncate(packet.length);
        let mut reader = Reader::new(&buffer).ok_or_else(|| self.garbled())?;
        if reader.kind == REFUSED {
            let reason = reader.text().unwrap_or_default();
            return Err(Error::Refused { reason });
        }
        Ok((buffer, packet.descriptor))
    }

    fn lost(&self, source: io::Error) -> Error {
        Error::Lost {
            directory: self.directory.clone(),
            source,
        }
    }

    fn garbled(&self) -> Error {
        Error::Garbled {
            directory: self.directory.clone(),
        }
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
