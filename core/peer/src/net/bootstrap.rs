//! Where the first other node is found.

use std::collections::HashSet;
use std::fmt;
use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use rand::seq::SliceRandom;
use tokio::time::Instant;

/// Where others may be reached, whoever they are.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Bootstrap {
    /// `10.0.0.1:7001`: the libp2p port of another node.
    Address(SocketAddr),
    /// `dns:pontoon.kube-system.svc:7001`: all addresses of the name, as those of a headless service.
    Name(String, u16),
    /// `file:/etc/pontoon/bootstrap`: the addresses in a file, one a line, which others write and which may change at any time.
    File(PathBuf),
}

/// What names no place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no place to find peers: write \"10.0.0.1:7001\", \"dns:name:7001\" or \"file:/path\""
)]
pub struct ParseBootstrapError(String);

impl FromStr for Bootstrap {
    type Err = ParseBootstrapError;

    fn from_str(text: &str) -> Result<Bootstrap, ParseBootstrapError> {
        let failed = || ParseBootstrapError(text.chars().take(200).collect());
        if let Ok(address) = text.parse::<SocketAddr>() {
            return match address.port() {
                0 => Err(failed()),
                _ => Ok(Bootstrap::Address(address)),
            };
        }
        if let Some(path) = text.strip_prefix("file:") {
            return match path.starts_with('/') {
                true => Ok(Bootstrap::File(path.into())),
                false => Err(failed()),
            };
        }
        let (name, port) = text
            .strip_prefix("dns:")
            .unwrap_or(text)
            .rsplit_once(':')
            .ok_or_else(failed)?;
        let of_a_name = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let is_name = !name.is_empty() && name.len() <= 253 && name.chars().all(of_a_name);
        match port.parse() {
            Ok(port) if port != 0 && is_name => Ok(Bootstrap::Name(name.to_owned(), port)),
            _ => Err(failed()),
        }
    }
}

impl fmt::Display for Bootstrap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Bootstrap::Address(address) => write!(f, "{address}"),
            Bootstrap::Name(name, port) => write!(f, "dns:{name}:{port}"),
            Bootstrap::File(path) => write!(f, "file:{}", path.display()),
        }
    }
}

/// How many addresses are dialled in one round. A headless service has one of each node; few of them lead to all others.
const ROUND_MAX: usize = 8;

/// How long a name may take.
const RESOLVE_MAX: Duration = Duration::from_secs(2);

/// The longest file of addresses that is read, in bytes, and how many of them.
const FILE_BYTES_MAX: u64 = 1 << 20;
const FILE_ADDRESSES_MAX: usize = 4096;

/// The addresses in a file, one a line; `#` begins a comment. What is no address is skipped.
fn read_file(path: &Path) -> std::io::Result<Vec<SocketAddr>> {
    let file = std::fs::File::open(path)?;
    let mut text = String::new();
    file.take(FILE_BYTES_MAX).read_to_string(&mut text)?;
    let lines = text.lines().map(|line| {
        let line = line.split('#').next().unwrap_or_default();
        line.trim()
    });
    let addresses = lines.filter_map(|line| line.parse::<SocketAddr>().ok());
    let reachable = addresses.filter(|address| address.port() != 0);
    Ok(reachable.take(FILE_ADDRESSES_MAX).collect())
}

/// Which addresses to dial in one round: of what is configured and remembered, a random few.
pub(super) async fn round(places: Vec<Bootstrap>, remembered: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let mut found = Vec::new();
    for place in places {
        match place {
            Bootstrap::Address(address) => found.push(address),
            Bootstrap::Name(name, port) => {
                let lookup = tokio::net::lookup_host((name.as_str(), port));
                match tokio::time::timeout(RESOLVE_MAX, lookup).await {
                    Ok(Ok(addresses)) => found.extend(addresses.take(4096)),
                    Ok(Err(error)) => {
                        tracing::debug!(%name, %error, "a name of peers is not known")
                    }
                    Err(_) => tracing::debug!(%name, "looking up a name of peers took too long"),
                }
            }
            Bootstrap::File(path) => {
                let reading = path.clone();
                let read = tokio::task::spawn_blocking(move || read_file(&reading)).await;
                match read.unwrap_or_else(|panic| Err(std::io::Error::other(panic))) {
                    Ok(addresses) => found.extend(addresses),
                    Err(error) => {
                        tracing::debug!(path = %path.display(), %error, "a file of peers cannot be read");
                    }
                }
            }
        }
    }
    few(found, remembered)
}

/// A random few of what was found, then of what is remembered.
fn few(mut found: Vec<SocketAddr>, mut remembered: Vec<SocketAddr>) -> Vec<SocketAddr> {
    found.shuffle(&mut rand::rng());
    found.truncate(ROUND_MAX);
    remembered.shuffle(&mut rand::rng());
    remembered.truncate(ROUND_MAX / 2);
    let mut seen = HashSet::new();
    found.extend(remembered);
    found.retain(|address| seen.insert(*address));
    found
}

/// When the next round is. While nobody is known: soon, then less and less often.
#[derive(Debug)]
pub(super) struct Rounds {
    next: Instant,
    delay: Duration,
}

/// How long to wait before the second round, and before any later one.
const DELAY_MIN: Duration = Duration::from_millis(50);
const DELAY_MAX: Duration = Duration::from_secs(10);

/// How often to look for more while few are known: two halves of a swarm that began apart meet by that.
const FEW_DELAY: Duration = Duration::from_secs(30);

/// With so many known, a node needs no places any more.
const ENOUGH: usize = 20;

impl Rounds {
    pub(super) fn new() -> Rounds {
        Rounds {
            next: Instant::now(),
            delay: DELAY_MIN,
        }
    }

    /// When to call [`Rounds::begins`] again.
    pub(super) fn next(&self) -> Instant {
        self.next
    }

    /// Whether a round begins now, with so many peers known.
    pub(super) fn begins(&mut self, known: usize) -> bool {
        let now = Instant::now();
        if known > 0 {
            self.delay = DELAY_MIN;
        }
        if now < self.next {
            return false;
        }
        if known == 0 {
            self.next = now + self.delay;
            self.delay = (self.delay * 2).min(DELAY_MAX);
            return true;
        }
        let jitter = Duration::from_millis(rand::random_range(0..5000));
        self.next = now + FEW_DELAY + jitter;
        known < ENOUGH
    }

    /// Nobody is known any more: begin at once.
    pub(super) fn alone(&mut self) {
        self.next = Instant::now();
        self.delay = DELAY_MIN;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_an_address_a_name_or_a_file() {
        let good = [
            ("10.0.0.1:7001", "10.0.0.1:7001"),
            ("[fd00::1]:7001", "[fd00::1]:7001"),
            (
                "dns:pontoon.kube-system.svc:7001",
                "dns:pontoon.kube-system.svc:7001",
            ),
            ("node-1:7001", "dns:node-1:7001"),
            ("file:/etc/pontoon/peers", "file:/etc/pontoon/peers"),
        ];
        for (text, again) in good {
            let place: Bootstrap = text.parse().unwrap();
            assert_eq!(place.to_string(), again);
            assert_eq!(again.parse(), Ok(place));
        }
        for bad in [
            "",
            "10.0.0.1",
            "10.0.0.1:0",
            "dns::1",
            "dns:a:70000",
            "a/b:1",
            "dns:a b:1",
            ":7001",
            "file:peers",
            "file:",
        ] {
            assert!(bad.parse::<Bootstrap>().is_err(), "{bad}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn rounds_become_rare_while_nobody_is_found_and_begin_anew_when_somebody_was() {
        let mut rounds = Rounds::new();
        let start = Instant::now();
        let mut begun = Vec::new();
        for _ in 0..60_000 {
            if rounds.begins(0) {
                begun.push(start.elapsed().as_millis());
            }
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        assert_eq!(begun[..4], [0, 50, 150, 350]);
        let gaps: Vec<u128> = begun.windows(2).map(|two| two[1] - two[0]).collect();
        assert!(gaps.iter().all(|gap| *gap <= 10_000));
        assert_eq!(*gaps.last().unwrap(), 10_000);
        assert!(!rounds.begins(3));
        rounds.alone();
        assert!(rounds.begins(0) && !rounds.begins(0));
        tokio::time::advance(Duration::from_millis(50)).await;
        assert!(rounds.begins(0));
    }

    #[tokio::test]
    async fn a_file_is_read_at_each_round_and_what_is_no_address_is_skipped() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("bootstrap");
        let places = vec![Bootstrap::File(path.clone())];
        // Nobody has written it yet.
        assert_eq!(round(places.clone(), Vec::new()).await, []);
        let text =
            "# nodes\n10.0.0.1:7001\n\n [fd00::2]:7001 # two\nnonsense\n10.0.0.3\n10.0.0.4:0\n";
        std::fs::write(&path, text).unwrap();
        let mut found = round(places.clone(), Vec::new()).await;
        found.sort();
        let expected = ["10.0.0.1:7001", "[fd00::2]:7001"].map(|address| address.parse().unwrap());
        assert_eq!(found, expected);
        // Bytes that are no text are nobody's address, and no reason to end.
        std::fs::write(&path, [0xff; 100]).unwrap();
        assert_eq!(round(places, Vec::new()).await, []);
    }

    #[tokio::test]
    async fn a_round_dials_few_of_many() {
        let address = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        let places = (1..500).map(|port| Bootstrap::Address(address(port)));
        let dialled = round(places.collect(), (1..500).map(address).collect()).await;
        assert!(dialled.len() <= ROUND_MAX + ROUND_MAX / 2);
        let places = vec![
            "dns:localhost:7001".parse().unwrap(),
            "dns:no.invalid:1".parse().unwrap(),
        ];
        let dialled = round(places, Vec::new()).await;
        assert!(
            dialled
                .iter()
                .any(|address| address.ip().is_loopback() && address.port() == 7001)
        );
    }
}
