//! What two nodes tell each other first, over TLS, before libp2p has the connection.
//!
//! Both send a hello: 2 bytes of length (big-endian), then [`START`], the libp2p and the HTTPS port (2 bytes each), an IP address in 0, 4 or 16
//! bytes after their number, and a membership token in 0 or [`TOKEN_BYTES`] bytes after their number. What follows is for later
//! versions. Both judge, and send a byte of [`Verdict`]. Only if both are [`Verdict::Admitted`] does the connection become one of libp2p,
//! so nobody who is not admitted can ask or tell anything there.

use std::io;
use std::net::IpAddr;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::Refused;
use crate::admission::{TOKEN_BYTES, Token};

const START: &[u8] = b"pontoon peer 1\n";

/// The longest hello that is read, in bytes.
const HELLO_BYTES_MAX: usize = 512;

/// What a node tells of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hello {
    /// Where it listens for libp2p.
    pub(super) port: u16,
    /// Where it gives chunks away; 0: it does not.
    pub(super) https_port: u16,
    /// Its IP address, if it is not the one that its connections come from.
    pub(super) address: Option<IpAddr>,
    /// Its membership token.
    pub(super) token: Option<Token>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum HelloError {
    /// The connection broke.
    #[error("the connection broke")]
    Io(#[from] io::Error),
    /// The other end speaks something else.
    #[error("the other end is no node of Pontoon, or of another version")]
    Foreign,
    /// We do not admit it.
    #[error("the peer is refused: {0}")]
    Refused(Refused),
    /// It does not admit us.
    #[error("the peer refuses this node: {0}")]
    RefusedUs(Refused),
}

/// Tells `ours`, has the other's judged, and waits for its judgement of ours.
pub(super) async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    ours: &Hello,
    judge: impl FnOnce(&Hello) -> Result<(), Refused>,
) -> Result<Hello, HelloError> {
    let hello = encode(ours);
    stream.write_u16(hello.len() as u16).await?;
    stream.write_all(&hello).await?;
    stream.flush().await?;
    let length = stream.read_u16().await? as usize;
    if length > HELLO_BYTES_MAX {
        return Err(HelloError::Foreign);
    }
    let mut hello = vec![0; length];
    stream.read_exact(&mut hello).await?;
    let theirs = decode(&hello).ok_or(HelloError::Foreign)?;
    let verdict = judge(&theirs);
    stream.write_u8(code(verdict)).await?;
    stream.flush().await?;
    if let Err(refused) = verdict {
        // What it was told should arrive; it need not.
        let _ = stream.shutdown().await;
        return Err(HelloError::Refused(refused));
    }
    match verdict_of(stream.read_u8().await?) {
        Some(Ok(())) => Ok(theirs),
        Some(Err(refused)) => Err(HelloError::RefusedUs(refused)),
        None => Err(HelloError::Foreign),
    }
}

fn code(verdict: Result<(), Refused>) -> u8 {
    match verdict {
        Ok(()) => 0,
        Err(Refused::NotConfigured) => 1,
        Err(Refused::Unknown) => 2,
        Err(Refused::BadToken) => 3,
        Err(Refused::Expired) => 4,
        Err(Refused::Banned) => 5,
    }
}

fn verdict_of(code: u8) -> Option<Result<(), Refused>> {
    Some(match code {
        0 => Ok(()),
        1 => Err(Refused::NotConfigured),
        2 => Err(Refused::Unknown),
        3 => Err(Refused::BadToken),
        4 => Err(Refused::Expired),
        5 => Err(Refused::Banned),
        _ => return None,
    })
}

fn encode(hello: &Hello) -> Vec<u8> {
    let mut bytes = START.to_vec();
    bytes.extend(hello.port.to_be_bytes());
    bytes.extend(hello.https_port.to_be_bytes());
    let address = match hello.address {
        None => Vec::new(),
        Some(IpAddr::V4(address)) => address.octets().to_vec(),
        Some(IpAddr::V6(address)) => address.octets().to_vec(),
    };
    bytes.push(address.len() as u8);
    bytes.extend(address);
    let token = hello.token.as_ref().map_or(&[][..], Token::as_bytes);
    bytes.push(token.len() as u8);
    bytes.extend(token);
    bytes
}

fn decode(bytes: &[u8]) -> Option<Hello> {
    let bytes = bytes.strip_prefix(START)?;
    let (port, bytes) = bytes.split_first_chunk()?;
    let (https_port, bytes) = bytes.split_first_chunk()?;
    let (address, bytes) = counted(bytes)?;
    let (token, _) = counted(bytes)?;
    let address = match address.len() {
        0 => None,
        4 => Some(IpAddr::from(<[u8; 4]>::try_from(address).ok()?)),
        16 => Some(IpAddr::from(<[u8; 16]>::try_from(address).ok()?).to_canonical()),
        _ => return None,
    };
    let token = match token.len() {
        0 => None,
        TOKEN_BYTES => Some(Token::from_bytes(token)?),
        _ => return None,
    };
    Some(Hello {
        port: u16::from_be_bytes(*port),
        https_port: u16::from_be_bytes(*https_port),
        address,
        token,
    })
}

/// The bytes after their number, and the rest.
fn counted(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, bytes) = bytes.split_first()?;
    bytes.split_at_checked(usize::from(*length))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hello(address: Option<&str>, token: bool) -> Hello {
        let mut bytes = [7; TOKEN_BYTES];
        bytes[0] = 1;
        Hello {
            port: 7001,
            https_port: 7002,
            address: address.map(|address| address.parse().unwrap()),
            token: token.then(|| Token::from_bytes(&bytes).unwrap()),
        }
    }

    #[test]
    fn a_hello_arrives_as_it_was_told_and_cut_short_it_is_none() {
        for address in [None, Some("10.0.0.1"), Some("fd00::1")] {
            for token in [false, true] {
                let hello = hello(address, token);
                let bytes = encode(&hello);
                assert_eq!(decode(&bytes), Some(hello.clone()));
                let longer = [bytes.as_slice(), b"later"].concat();
                assert_eq!(decode(&longer), Some(hello));
                for cut in 0..bytes.len() {
                    assert_eq!(decode(&bytes[..cut]), None);
                }
            }
        }
    }

    proptest! {
        #[test]
        fn whatever_comes_is_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200), start: bool) {
            let bytes = if start { [START, &bytes].concat() } else { bytes };
            if let Some(hello) = decode(&bytes) {
                prop_assert_eq!(decode(&encode(&hello)), Some(hello));
            }
        }
    }

    #[tokio::test]
    async fn both_ends_learn_who_refuses_whom_and_why() {
        let (mut a, mut b) = tokio::io::duplex(1024);
        let (ours, theirs) = (hello(None, false), hello(Some("10.0.0.9"), true));
        let here = exchange(&mut a, &ours, |hello| {
            assert_eq!(hello.port, 7001);
            Err(Refused::Unknown)
        });
        let there = exchange(&mut b, &theirs, |_| Ok(()));
        let (here, there) = tokio::join!(here, there);
        assert!(matches!(here, Err(HelloError::Refused(Refused::Unknown))));
        assert!(matches!(
            there,
            Err(HelloError::RefusedUs(Refused::Unknown))
        ));
    }

    #[tokio::test]
    async fn what_is_too_long_is_not_read() {
        let (mut a, mut b) = tokio::io::duplex(1024);
        b.write_u16(u16::MAX).await.unwrap();
        let hello = hello(None, false);
        let end = exchange(&mut a, &hello, |_| Ok(())).await;
        assert!(matches!(end, Err(HelloError::Foreign)));
    }
}
