//! A secret key in a file of its own.
//!
//! One line: `ed25519`, a space, and the seed of 32 bytes in base64.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use libp2p_identity::ed25519::{Keypair, SecretKey};

use crate::{Error, Result};

const NAME: &str = "ed25519";

/// More than a key's file has; so that nothing else is read whole.
const FILE_BYTES_MAX: u64 = 1024;

/// The key in the file, or `None` if there is no file.
pub(crate) fn read(path: &Path) -> Result<Option<Keypair>> {
    let failed = failed("reading the key", path);
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mode = file.metadata().map_err(&failed)?.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(Error::KeyMode {
            path: path.to_owned(),
            mode,
        });
    }
    let mut text = String::new();
    file.take(FILE_BYTES_MAX)
        .read_to_string(&mut text)
        .map_err(&failed)?;
    parse(&text).map(Some).ok_or_else(|| Error::Malformed {
        path: path.to_owned(),
        what: "key of a node",
        reason: "delete it and restart; the node then is another peer".to_owned(),
    })
}

/// Writes the key, durably and at once, unless there is a file: then `false`.
pub(crate) fn create(path: &Path, key: &Keypair) -> Result<bool> {
    let failed = failed("writing the key", path);
    let directory = match path.parent() {
        Some(directory) if !directory.as_os_str().is_empty() => directory,
        _ => Path::new("."),
    };
    fs::create_dir_all(directory).map_err(&failed)?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{:016x}.new", rand::random::<u64>()));
    let new = Removed(directory.join(name));
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&new.0)
        .map_err(&failed)?;
    let seed = STANDARD.encode(key.secret());
    file.write_all(format!("{NAME} {seed}\n").as_bytes())
        .and_then(|()| file.sync_all())
        .map_err(&failed)?;
    // A link instead of a rename: of two that start together, both get the first one's key.
    match fs::hard_link(&new.0, path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
        Err(error) => return Err(failed(error)),
    }
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(failed)?;
    Ok(true)
}

fn parse(text: &str) -> Option<Keypair> {
    let (name, seed) = text.trim_end().split_once(' ')?;
    if name != NAME {
        return None;
    }
    let seed = STANDARD.decode(seed).ok()?;
    Some(SecretKey::try_from_bytes(seed).ok()?.into())
}

fn failed(operation: &'static str, path: &Path) -> impl Fn(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File {
        operation,
        path: path.clone(),
        source,
    }
}

/// A file that goes when this does.
struct Removed(PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}
