//! What is said over the holder's socket.
//!
//! Each packet is a message: its kind (u16), then fields, each of them its length (u32) and its bytes; all numbers are
//! little-endian. A daemon asks, the holder answers each message in turn. What a message means never changes, fields are
//! only ever added at its end, and who does not know a field ignores it. A holder refuses kinds that it does not know,
//! with a text; so a daemon that would like more of it than it can do is told, and can do without.
//!
//! | asked | fields | answered |
//! |---|---|---|
//! | 1 hello | | 102 |
//! | 2 keep, with a descriptor | name, state, patience in milliseconds (u64), connection (u32), advice | 100 |
//! | 3 note | name, state, connection | 100 |
//! | 4 list | | 103, then a 104 for each |
//! | 5 serve: until this connection ends, nothing is given up | | 100 |
//! | 6 forget | name | 100 |
//!
//! | answer | fields |
//! |---|---|
//! | 100 done | |
//! | 101 refused | why |
//! | 102 welcome | protocol (u32), pid (u32), version, how many are kept (u32) |
//! | 103 entries | how many follow (u32) |
//! | 104 entry, with its descriptor | name, state |

/// The version of all this that a holder says it speaks.
pub const PROTOCOL: u32 = 1;

/// The largest packet, in bytes.
pub(crate) const PACKET_BYTES_MAX: usize = 64 << 10;

pub(crate) const HELLO: u16 = 1;
pub(crate) const KEEP: u16 = 2;
pub(crate) const NOTE: u16 = 3;
pub(crate) const LIST: u16 = 4;
pub(crate) const SERVE: u16 = 5;
pub(crate) const FORGET: u16 = 6;

pub(crate) const DONE: u16 = 100;
pub(crate) const REFUSED: u16 = 101;
pub(crate) const WELCOME: u16 = 102;
pub(crate) const ENTRIES: u16 = 103;
pub(crate) const ENTRY: u16 = 104;

/// A packet that is being written.
#[derive(Debug)]
pub(crate) struct Writer(Vec<u8>);

impl Writer {
    pub(crate) fn new(kind: u16) -> Self {
        Writer(kind.to_le_bytes().to_vec())
    }

    pub(crate) fn field(mut self, bytes: &[u8]) -> Self {
        // One that is too long makes a packet that is too long, which is not sent.
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        self.0.extend(length.to_le_bytes());
        self.0.extend(bytes);
        self
    }

    pub(crate) fn number(self, number: u32) -> Self {
        self.field(&number.to_le_bytes())
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// A packet that has come. Nothing of it is believed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a> {
    pub(crate) kind: u16,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(packet: &'a [u8]) -> Option<Self> {
        let (kind, rest) = packet.split_first_chunk()?;
        let kind = u16::from_le_bytes(*kind);
        Some(Reader { kind, rest })
    }

    /// The next field.
    pub(crate) fn field(&mut self) -> Option<&'a [u8]> {
        let (length, rest) = self.rest.split_first_chunk()?;
        let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
        let (field, rest) = rest.split_at_checked(length)?;
        self.rest = rest;
        Some(field)
    }

    pub(crate) fn text(&mut self) -> Option<String> {
        let field = self.field()?;
        Some(String::from_utf8_lossy(field).into_owned())
    }

    pub(crate) fn number(&mut self) -> Option<u32> {
        let field = self.field()?;
        Some(u32::from_le_bytes(field.try_into().ok()?))
    }

    pub(crate) fn large_number(&mut self) -> Option<u64> {
        let field = self.field()?;
        Some(u64::from_le_bytes(field.try_into().ok()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_as_they_were_written() {
        let packet = Writer::new(KEEP).field(b"name").field(b"").number(7);
        let mut reader = Reader::new(packet.bytes()).unwrap();
        assert_eq!(reader.kind, KEEP);
        assert_eq!(reader.text().unwrap(), "name");
        assert_eq!(reader.field().unwrap(), b"");
        assert_eq!(reader.number().unwrap(), 7);
        assert_eq!(reader.field(), None);
    }

    #[test]
    fn what_is_cut_off_is_no_field() {
        let packet = Writer::new(KEEP).field(b"name").number(7);
        for length in 0..packet.bytes().len() {
            let Some(mut reader) = Reader::new(&packet.bytes()[..length]) else {
                assert!(length < 2);
                continue;
            };
            let read = reader.field().is_some() && reader.number().is_some();
            assert!(!read, "{length}");
        }
        assert!(
            Reader::new(&[1, 0, 255, 255, 255, 255, 1])
                .unwrap()
                .field()
                .is_none()
        );
    }
}
