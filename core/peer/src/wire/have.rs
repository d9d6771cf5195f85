//! The answer to HAVE.
//!
//! Little-endian: 8 bytes `PNThave1`, u64 generation, u32 number of chunks, u8 form of the chunks (0 the same as before, 1 all, 2 one bit each,
//! lowest first, 3 runs), u8 1 if more are being fetched, u16 number of other nodes, u32 bytes of the chunks, u8 bytes of the zone's name,
//! 3 bytes of zeros; the chunks; the zone's name in UTF-8; the nodes. Runs are lengths in LEB128, in turn of chunks that are not
//! there and that are. A node is u8 length of its PeerId, that, u8 4 or 6, an address of 4 or 16 bytes, u16 port.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::policy::{Bitmap, Told};
use crate::{BITMAP_BYTES_MAX, Have, PEERS_TOLD_MAX, Peer, PeerId, ZONE_BYTES_MAX};

const MAGIC: &[u8; 8] = b"PNThave1";
const HEADER_BYTES: usize = 32;

/// No PeerId is longer, in bytes.
const ID_BYTES_MAX: usize = 64;

/// The longest answer, in bytes.
pub const BYTES_MAX: usize =
    HEADER_BYTES + BITMAP_BYTES_MAX + ZONE_BYTES_MAX + PEERS_TOLD_MAX * (ID_BYTES_MAX + 20);

const SAME: u8 = 0;
const ALL: u8 = 1;
const BITS: u8 = 2;
const RUNS: u8 = 3;

/// What is wrong with an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(&'static str);

/// Writes an answer about a layer of `chunks` chunks. What is beyond the limits is left out.
pub fn encode(have: &Have, generation: u64, chunks: usize) -> Vec<u8> {
    let (form, body) = match &have.told {
        None => (SAME, Vec::new()),
        Some(told) if told.complete => (ALL, Vec::new()),
        Some(told) => {
            let (bits, runs) = (told.chunks.to_bytes(), runs(&told.chunks));
            match runs.len() < bits.len() {
                true => (RUNS, runs),
                false => (BITS, bits),
            }
        }
    };
    let is_active = have.told.as_ref().is_some_and(|told| told.active);
    let peers = have.peers.iter().take(PEERS_TOLD_MAX);
    let zone = match have.zone.len() {
        0..=ZONE_BYTES_MAX => have.zone.as_bytes(),
        _ => &[],
    };
    let mut bytes = Vec::with_capacity(HEADER_BYTES + body.len() + 64 * peers.len());
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&generation.to_le_bytes());
    bytes.extend_from_slice(&u32::try_from(chunks).unwrap_or(u32::MAX).to_le_bytes());
    bytes.extend_from_slice(&[form, u8::from(is_active)]);
    bytes.extend_from_slice(&u16::try_from(peers.len()).unwrap_or_default().to_le_bytes());
    bytes.extend_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes());
    bytes.extend_from_slice(&[u8::try_from(zone.len()).unwrap_or_default(), 0, 0, 0]);
    bytes.extend_from_slice(&body);
    bytes.extend_from_slice(zone);
    for peer in peers {
        let id = peer.id.to_bytes();
        bytes.push(u8::try_from(id.len()).unwrap_or_default());
        bytes.extend_from_slice(&id);
        match peer.address.ip() {
            IpAddr::V4(ip) => {
                bytes.push(4);
                bytes.extend_from_slice(&ip.octets());
            }
            IpAddr::V6(ip) => {
                bytes.push(6);
                bytes.extend_from_slice(&ip.octets());
            }
        }
        bytes.extend_from_slice(&peer.address.port().to_le_bytes());
    }
    bytes
}

/// Reads an answer about a layer that has `chunks` chunks, as this node's own table says.
pub fn decode(bytes: &[u8], chunks: usize) -> Result<Have, Malformed> {
    let mut reader = Reader(bytes);
    if reader.array()? != *MAGIC {
        return Err(Malformed("it does not begin like an answer to HAVE"));
    }
    let generation = u64::from_le_bytes(reader.array()?);
    let told_chunks = u32::from_le_bytes(reader.array()?);
    let [form, active] = reader.array()?;
    let peers = usize::from(u16::from_le_bytes(reader.array()?));
    let body = u32::from_le_bytes(reader.array()?);
    let [zone, 0, 0, 0] = reader.array()? else {
        return Err(Malformed("it has something where nothing is"));
    };
    if usize::try_from(told_chunks) != Ok(chunks) {
        return Err(Malformed("it is about a layer with more or fewer chunks"));
    }
    let body = usize::try_from(body).unwrap_or(usize::MAX);
    if body > BITMAP_BYTES_MAX || peers > PEERS_TOLD_MAX || usize::from(zone) > ZONE_BYTES_MAX {
        return Err(Malformed("it has more of something than it may"));
    }
    let body = reader.take(body)?;
    let told = match (form, active) {
        (SAME, 0) if body.is_empty() => None,
        (ALL, 0 | 1) if body.is_empty() => Some(Bitmap::full(chunks)),
        (BITS, 0 | 1) => Some(
            Bitmap::from_bytes(body, chunks).ok_or(Malformed("its bits are of another number"))?,
        ),
        (RUNS, 0 | 1) => Some(from_runs(body, chunks)?),
        _ => return Err(Malformed("it has chunks of an unknown form")),
    };
    let told = told.map(|bitmap| Told {
        generation,
        complete: bitmap.count() == chunks,
        chunks: bitmap,
        active: active == 1,
    });
    let zone = std::str::from_utf8(reader.take(usize::from(zone))?);
    let zone = zone.map_err(|_| Malformed("its zone is no text"))?;
    if zone.chars().any(char::is_control) {
        return Err(Malformed("its zone is no text"));
    }
    let peers: Result<Vec<Peer>, Malformed> = (0..peers).map(|_| reader.peer()).collect();
    let peers = peers?;
    match reader.0 {
        [] => Ok(Have {
            told,
            peers,
            zone: zone.to_owned(),
        }),
        _ => Err(Malformed("something is behind its end")),
    }
}

/// The lengths of runs of clear and set bits.
fn runs(bitmap: &Bitmap) -> Vec<u8> {
    let (mut bytes, mut end) = (Vec::new(), 0);
    for run in bitmap.runs(0..usize::MAX) {
        push(&mut bytes, run.start - end);
        push(&mut bytes, run.len());
        end = run.end;
    }
    bytes
}

fn push(bytes: &mut Vec<u8>, mut number: usize) {
    while number >= 0x80 {
        bytes.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    bytes.push((number & 0x7f) as u8);
}

fn from_runs(body: &[u8], chunks: usize) -> Result<Bitmap, Malformed> {
    let mut reader = Reader(body);
    let (mut bitmap, mut next, mut is_set) = (Bitmap::new(chunks), 0, false);
    while !reader.0.is_empty() {
        let length = reader.number()?;
        // Only the first, of chunks that are not there, may be empty: so that no number of them is about nothing.
        if length == 0 && (next > 0 || is_set) {
            return Err(Malformed("it has a run of no chunks"));
        }
        let end = usize::try_from(length)
            .ok()
            .and_then(|length| length.checked_add(next));
        let end = end.filter(|end| *end <= chunks);
        let end = end.ok_or(Malformed("its runs are longer than the layer"))?;
        if is_set {
            bitmap.set(next..end);
        }
        (next, is_set) = (end, !is_set);
    }
    Ok(bitmap)
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self
            .0
            .split_at_checked(length)
            .ok_or(Malformed("it was cut off"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self
            .0
            .split_first_chunk()
            .ok_or(Malformed("it was cut off"))?;
        self.0 = rest;
        Ok(*taken)
    }

    /// In at most five groups of seven bits.
    fn number(&mut self) -> Result<u64, Malformed> {
        let mut number = 0;
        for group in 0..5 {
            let [byte] = self.array()?;
            number |= u64::from(byte & 0x7f) << (7 * group);
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(Malformed("it has a number that is too long"))
    }

    fn peer(&mut self) -> Result<Peer, Malformed> {
        let [length] = self.array()?;
        if usize::from(length) > ID_BYTES_MAX {
            return Err(Malformed("it has more of something than it may"));
        }
        let id = PeerId::from_bytes(self.take(usize::from(length))?);
        let id = id.map_err(|_| Malformed("it names a node that is none"))?;
        let [family] = self.array()?;
        let ip = match family {
            4 => IpAddr::V4(Ipv4Addr::from(self.array::<4>()?)),
            6 => IpAddr::V6(Ipv6Addr::from(self.array::<16>()?)),
            _ => return Err(Malformed("it names a node without an address")),
        };
        let port = u16::from_le_bytes(self.array()?);
        Ok(Peer {
            id,
            address: SocketAddr::new(ip, port),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn peer(seed: u8) -> Peer {
        let ip = match seed % 2 {
            0 => IpAddr::V4(Ipv4Addr::new(10, 0, 0, seed)),
            _ => IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, u16::from(seed))),
        };
        Peer {
            id: crate::Identity::ephemeral().peer_id(),
            address: SocketAddr::new(ip, 7002),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_is_written_is_read(
            chunks in 0_usize..3000,
            set in prop::collection::vec((0_usize..3000, 1_usize..200), 0..30),
            same: bool,
            active: bool,
            peers in 0_u8..4,
            zone in "[a-z0-9-]{0,64}",
            cut in any::<prop::sample::Index>(),
        ) {
            let mut bitmap = Bitmap::new(chunks);
            set.into_iter().for_each(|(start, count)| bitmap.set(start..start + count));
            let told = Told { generation: 77, complete: bitmap.count() == chunks, chunks: bitmap, active };
            let have = Have {
                told: (!same).then_some(told),
                peers: (0..peers).map(peer).collect(),
                zone,
            };
            let bytes = encode(&have, 77, chunks);
            prop_assert!(bytes.len() <= BYTES_MAX);
            prop_assert_eq!(decode(&bytes, chunks), Ok(have));
            prop_assert!(decode(&bytes, chunks + 1).is_err());
            prop_assert!(decode(&bytes[..cut.index(bytes.len())], chunks).is_err());
            prop_assert!(decode(&[&bytes[..], &[0]].concat(), chunks).is_err());
        }

        #[test]
        fn anything_is_read_or_refused(mut bytes in prop::collection::vec(any::<u8>(), 0..200), chunks in 0_usize..1000) {
            let _ = decode(&bytes, chunks);
            let start = [&MAGIC[..], &7_u64.to_le_bytes(), &(chunks as u32).to_le_bytes()].concat();
            let length = start.len().min(bytes.len());
            bytes[..length].copy_from_slice(&start[..length]);
            if let Ok(Have { told: Some(told), .. }) = decode(&bytes, chunks) {
                prop_assert_eq!(told.chunks.len(), chunks);
            }
        }
    }

    #[test]
    fn runs_are_shorter_where_they_are() {
        let mut bitmap = Bitmap::new(100_000);
        bitmap.set(10..50_000);
        assert!(runs(&bitmap).len() < 8);
        assert_eq!(from_runs(&runs(&bitmap), 100_000), Ok(bitmap));
        // The longest layer there may be, and the worst for runs.
        let mut worst = Bitmap::new(1_250_000);
        (0..1_250_000)
            .step_by(2)
            .for_each(|at| worst.set(at..at + 1));
        let told = Told {
            generation: 1,
            complete: false,
            chunks: worst,
            active: false,
        };
        let have = Have {
            told: Some(told),
            peers: Vec::new(),
            zone: String::new(),
        };
        let bytes = encode(&have, 1, 1_250_000);
        assert!(bytes.len() < 160_000);
        assert_eq!(decode(&bytes, 1_250_000), Ok(have));
    }
}
