//! What kernel and server have agreed on, so that a successor can go on without another greeting.

use fuser::{InitFlags, KernelConfig};
use serde_json::{Value, json};

/// The form of what is noted. A server does not go on with one that it does not know.
const FORM: u64 = 1;

/// What the kernel offers first: `FUSE_INIT` (linux/fuse.h).
const INIT: u32 = 26;

/// The lengths of struct fuse_in_header and struct fuse_init_in.
const HEADER_BYTES: usize = 40;
const INIT_BYTES: usize = 64;

/// A greeting as it went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Greeting {
    /// Major and minor version of the kernel's protocol.
    version: (u32, u32),
    /// Bytes that the kernel may read ahead.
    read_ahead: u32,
    /// Capabilities that kernel and server both use.
    flags: u64,
}

impl Greeting {
    pub(crate) fn of(config: &mut KernelConfig, agreed: InitFlags) -> Self {
        let version = config.kernel_abi();
        // The only way to ask what it offers is to want too much.
        let read_ahead = match config.set_max_readahead(u32::MAX) {
            Err(offered) => offered,
            Ok(_) => u32::MAX,
        };
        Greeting {
            version: (version.0, version.1),
            read_ahead,
            flags: agreed.bits(),
        }
    }

    /// Whether the kernel can be told to ask again, without which nobody can go on.
    pub(crate) fn can_resend(&self) -> bool {
        InitFlags::from_bits_retain(self.flags).contains(InitFlags::FUSE_HAS_RESEND)
    }

    /// What a holder keeps with the connection.
    pub(crate) fn note(&self, connection: u32) -> Vec<u8> {
        let (major, minor) = self.version;
        let note = json!({
            "form": FORM,
            "connection": connection,
            "major": major,
            "minor": minor,
            "read_ahead": self.read_ahead,
            "flags": self.flags,
        });
        note.to_string().into_bytes()
    }

    /// What was noted, and the number of the connection. The error says why nobody can go on with it.
    pub(crate) fn read(note: &[u8]) -> Result<(Self, u32), String> {
        if note.is_empty() {
            return Err("its server died before it had begun".to_owned());
        }
        let note: Value = serde_json::from_slice(note).map_err(|error| error.to_string())?;
        let number = |name: &str| note.get(name).and_then(Value::as_u64);
        match number("form") {
            Some(FORM) => {}
            Some(form) => {
                return Err(format!(
                    "another version of Pontoon noted what this one cannot read: form {form}, not {FORM}"
                ));
            }
            None => return Err("what was noted has no form".to_owned()),
        }
        let small = |name: &str| {
            let number = number(name).and_then(|number| u32::try_from(number).ok());
            number.ok_or_else(|| format!("what was noted has no {name}"))
        };
        let greeting = Greeting {
            version: (small("major")?, small("minor")?),
            read_ahead: small("read_ahead")?,
            flags: number("flags").ok_or("what was noted has no flags")?,
        };
        Ok((greeting, small("connection")?))
    }

    /// The greeting once more, as the kernel would send it: it offers what was agreed on and nothing else.
    pub(crate) fn packet(&self) -> Vec<u8> {
        let length = HEADER_BYTES + INIT_BYTES;
        let (major, minor) = self.version;
        let flags = self.flags | InitFlags::FUSE_INIT_EXT.bits();
        let mut packet = Vec::with_capacity(length);
        packet.extend((length as u32).to_ne_bytes());
        packet.extend(INIT.to_ne_bytes());
        // Its own number; no node, and nobody who asks.
        packet.extend(1_u64.to_ne_bytes());
        packet.resize(HEADER_BYTES, 0);
        for number in [
            major,
            minor,
            self.read_ahead,
            flags as u32,
            (flags >> 32) as u32,
        ] {
            packet.extend(number.to_ne_bytes());
        }
        packet.resize(length, 0);
        packet
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_noted_is_read() {
        let greeting = Greeting {
            version: (7, 45),
            read_ahead: 131_072,
            flags: (1 << 39) | 3,
        };
        let note = greeting.note(51);
        assert_eq!(Greeting::read(&note).unwrap(), (greeting.clone(), 51));
        assert!(greeting.can_resend());
        let packet = greeting.packet();
        assert_eq!(packet.len(), 104);
        assert_eq!(packet[..8], [104, 0, 0, 0, 26, 0, 0, 0]);
        assert_eq!(packet[40..48], [7, 0, 0, 0, 45, 0, 0, 0]);
    }

    #[test]
    fn what_nobody_can_go_on_with_is_refused() {
        for note in [
            "",
            "{}",
            "[]",
            "{\"form\":1}",
            "{\"form\":1,\"connection\":1e99}",
        ] {
            Greeting::read(note.as_bytes()).unwrap_err();
        }
        let newer = Greeting::read(b"{\"form\":2}").unwrap_err();
        assert!(newer.contains("form 2"), "{newer}");
    }
}
