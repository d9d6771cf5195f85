//! The sections that every daemon has.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use toml::de::DeValue;
use tracing::level_filters::LevelFilter;

use super::setting::{Setting, quoted};
use crate::section;

section! {
    /// The keys above all sections.
    pub struct TopSection {
        /// The directory of all snapshots and their metadata; one daemon at a time. Keep it on the filesystem that
        /// shall hold the images, and in containerd's configuration as `exports.root`.
        pub root: PathBuf = PathBuf::new(),
        /// The unix socket that containerd connects to. Only root may.
        pub address: PathBuf = PathBuf::new(),
    }
}

impl TopSection {
    /// The defaults of plugin `name`.
    pub fn of(name: &str) -> Self {
        TopSection {
            root: format!("/var/lib/pontoon/{name}").into(),
            address: format!("/run/pontoon/{name}.sock").into(),
        }
    }
}

section! {
    /// Logs go to standard error.
    pub struct LogSection {
        /// How much is logged. `PUT /log-level` of the admin endpoint and SIGHUP (which reads this file again)
        /// change it in a running daemon.
        pub level: LogLevel = LogLevel(LevelFilter::INFO),
        /// `text` is for people, `json` has one object a line.
        pub format: LogFormat = LogFormat::Text,
    }
}

section! {
    /// Health, metrics, layers and the log level by HTTP: `GET /live`, `/ready`, `/metrics`, `/layers`, `GET` and `PUT
    /// /log-level`.
    pub struct AdminSection {
        /// Where to serve it. `auto` is a unix socket beside `address`, with `-admin` in its name; empty is nowhere.
        /// Only loopback addresses are allowed, because everybody who can connect may ask.
        pub address: AdminAddress = AdminAddress::Beside,
    }
}

section! {
    /// Bounds on what clients may ask for at the same time.
    pub struct LimitsSection {
        /// Requests that are worked on at a time; more wait.
        pub requests: Count<1, 512> = Count(64),
        /// Connections at a time; more wait to be accepted.
        pub connections: Count<1, 4096> = Count(256),
        /// Seconds that requests may take to finish when the daemon is told to stop.
        pub drain_seconds: Count<0, 300> = Count(10),
    }
}

/// How much is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogLevel(pub LevelFilter);

impl FromStr for LogLevel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let level = match text {
            "off" => LevelFilter::OFF,
            "error" => LevelFilter::ERROR,
            "warn" => LevelFilter::WARN,
            "info" => LevelFilter::INFO,
            "debug" => LevelFilter::DEBUG,
            "trace" => LevelFilter::TRACE,
            _ => return Err(format!("must be {}", LogLevel::allowed())),
        };
        Ok(LogLevel(level))
    }
}

impl fmt::Display for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Setting for LogLevel {
    fn allowed() -> String {
        "\"off\", \"error\", \"warn\", \"info\", \"debug\" or \"trace\"".to_owned()
    }

    fn read(value: &DeValue<'_>) -> Option<Self> {
        value.as_str()?.parse().ok()
    }

    fn write(&self) -> String {
        quoted(&self.to_string())
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl Setting for LogFormat {
    fn allowed() -> String {
        "\"text\" or \"json\"".to_owned()
    }

    fn read(value: &DeValue<'_>) -> Option<Self> {
        match value.as_str()? {
            "text" => Some(LogFormat::Text),
            "json" => Some(LogFormat::Json),
            _ => None,
        }
    }

    fn write(&self) -> String {
        quoted(match self {
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        })
    }
}

/// Where the admin endpoint is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdminAddress {
    /// Nowhere.
    Off,
    /// On a unix socket beside the daemon's.
    Beside,
    /// On this unix socket.
    Unix(PathBuf),
    /// On this loopback address.
    Tcp(SocketAddr),
}

impl Setting for AdminAddress {
    fn allowed() -> String {
        "\"auto\", \"\" (off), the absolute path of a unix socket, or ADDRESS:PORT with a loopback address like 127.0.0.1".to_owned()
    }

    fn read(value: &DeValue<'_>) -> Option<Self> {
        match value.as_str()? {
            "" => Some(AdminAddress::Off),
            "auto" => Some(AdminAddress::Beside),
            path if path.starts_with('/') => Some(AdminAddress::Unix(path.into())),
            address => {
                let address: SocketAddr = address.parse().ok()?;
                address
                    .ip()
                    .is_loopback()
                    .then_some(AdminAddress::Tcp(address))
            }
        }
    }

    fn write(&self) -> String {
        match self {
            AdminAddress::Off => quoted(""),
            AdminAddress::Beside => quoted("auto"),
            AdminAddress::Unix(path) => path.write(),
            AdminAddress::Tcp(address) => quoted(&address.to_string()),
        }
    }
}

/// A number from `MIN` to `MAX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Count<const MIN: u16, const MAX: u16>(pub u16);

impl<const MIN: u16, const MAX: u16> Setting for Count<MIN, MAX> {
    fn allowed() -> String {
        format!("a number from {MIN} to {MAX}")
    }

    fn read(value: &DeValue<'_>) -> Option<Self> {
        let integer = value.as_integer()?;
        let number = u16::from_str_radix(integer.as_str(), integer.radix()).ok()?;
        (MIN..=MAX).contains(&number).then_some(Count(number))
    }

    fn write(&self) -> String {
        self.0.to_string()
    }
}
