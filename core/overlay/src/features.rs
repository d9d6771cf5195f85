//! What this kernel and filesystem can do, and what follows from it for mount options and capabilities.

use std::path::Path;

use pontoon_linux::probe::{self, Scratch};
use pontoon_snapshot::{Error, Result};

/// What was found out by trying.
#[derive(Debug, Clone)]
pub struct Features {
    /// Whether this process is in a user namespace other than the first one.
    pub user_namespace: bool,
    /// Whether overlays need the option `userxattr`.
    pub userxattr: bool,
    /// Whether overlayfs knows the option `index`.
    pub index: bool,
    /// Whether overlays can be idmapped, or why not.
    pub id_maps: Result<(), String>,
}

impl Features {
    /// Tries things out in `scratch`, a directory that is made for it and removed, on the filesystem in question.
    ///
    /// What a full disk keeps from being tried counts as not possible.
    pub fn probe(scratch: &Path) -> Result<Self> {
        Self::probe_in(open_scratch(scratch)?.as_ref())
    }

    fn probe_in(scratch: Option<&Scratch>) -> Result<Self> {
        let id_maps = match scratch {
            Some(scratch) => scratch
                .overlay_takes_id_maps()
                .map_err(|error| with_source(&error)),
            None => Err("not tried, because the disk is full".to_owned()),
        };
        Ok(Features {
            user_namespace: probe::in_user_namespace(),
            userxattr: scratch.is_some_and(Scratch::needs_userxattr),
            index: probe::overlay_has_index(),
            id_maps,
        })
    }

    /// Probes, and tries whether the kernel takes the operator's mount options. Answers with the options for every
    /// overlay: these, and what the probes add unless they name it.
    pub(crate) fn probe_options(
        scratch: &Path,
        configured: &[String],
    ) -> Result<(Self, Vec<String>)> {
        check_options(configured)?;
        let scratch = open_scratch(scratch)?;
        let features = Self::probe_in(scratch.as_ref())?;
        let options = features.overlay_options(configured);
        if let Some(scratch) = &scratch {
            try_options(scratch, &features.overlay_options(&[]), &options)?;
        }
        Ok((features, options))
    }

    /// The capabilities that containerd may be told in `[proxy_plugins.X]`.
    ///
    /// `slow_chown` allows containerd to change the owner of every file where ids cannot be mapped.
    pub fn capabilities(&self, slow_chown: bool) -> Vec<&'static str> {
        let mut capabilities = Vec::new();
        if self.id_maps.is_ok() {
            capabilities.push("remap-ids");
        }
        if !slow_chown {
            capabilities.push("only-remap-ids");
        }
        // Whiteouts of a layer that is unpacked without its parent are device nodes.
        if !self.user_namespace {
            capabilities.push("rebase");
        }
        capabilities
    }

    fn overlay_options(&self, configured: &[String]) -> Vec<String> {
        let mut options = configured.to_vec();
        if self.userxattr && !has_option(configured, "userxattr") {
            options.push("userxattr".to_owned());
        }
        if self.index && !has_option(configured, "index") {
            options.push("index=off".to_owned());
        }
        options
    }
}

/// A directory to try things in; none on a full disk, on which snapshots must still be removable.
fn open_scratch(path: &Path) -> Result<Option<Scratch>> {
    match Scratch::new(path.to_owned()) {
        Ok(scratch) => Ok(Some(scratch)),
        Err(error) => match Error::io(format!("create directory {}", path.display()), error) {
            Error::Exhausted { operation, .. } => {
                tracing::warn!(
                    operation,
                    "the disk is full: not trying what overlays can do"
                );
                Ok(None)
            }
            error => Err(error),
        },
    }
}

/// Refuses a filesystem that cannot carry overlays, and options that the kernel refuses.
fn try_options(scratch: &Scratch, plain: &[String], options: &[String]) -> Result<()> {
    let Err(error) = scratch.overlay_takes(options) else {
        return Ok(());
    };
    // containerd mounts, not this process: that this one may not, says nothing. Nor does a full disk.
    if probe::says_nothing(&error) {
        tracing::warn!(
            error = with_source(&error),
            "cannot try the overlay mount options"
        );
        return Ok(());
    }
    match scratch.overlay_takes(plain) {
        Ok(()) => Err(Error::invalid(
            format!("mount_options {options:?}"),
            format!("the kernel refuses them: {}", with_source(&error)),
        )),
        Err(error) => Err(Error::invalid(
            "the filesystem of the root",
            format!(
                "overlayfs cannot use it, choose a root on another one: {}",
                with_source(&error)
            ),
        )),
    }
}

fn has_option(options: &[String], key: &str) -> bool {
    options
        .iter()
        .any(|option| option.split('=').next() == Some(key))
}

fn check_options(options: &[String]) -> Result<()> {
    for option in options {
        let key = option.split('=').next().unwrap_or_default();
        let reason = match key {
            "" => "it is empty; leave it out",
            "lowerdir" | "upperdir" | "workdir" | "uidmap" | "gidmap" => {
                "every snapshot has its own; leave it out"
            }
            _ if option.contains(',') => {
                "it holds a comma; write each option as an item of its own"
            }
            _ => continue,
        };
        return Err(Error::invalid(format!("mount option {option:?}"), reason));
    }
    Ok(())
}

/// The error with its cause, for a text that is read without the chain.
fn with_source(error: &pontoon_linux::Error) -> String {
    format!("{error}: {}", error.source)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn features(user_namespace: bool, id_maps: bool) -> Features {
        Features {
            user_namespace,
            userxattr: user_namespace,
            index: true,
            id_maps: id_maps.then_some(()).ok_or_else(|| "no".to_owned()),
        }
    }

    #[test]
    fn capabilities_follow_from_features() {
        let host = features(false, true);
        assert_eq!(
            host.capabilities(false),
            ["remap-ids", "only-remap-ids", "rebase"]
        );
        assert_eq!(host.capabilities(true), ["remap-ids", "rebase"]);
        let rootless = features(true, false);
        assert_eq!(rootless.capabilities(false), ["only-remap-ids"]);
        assert_eq!(rootless.capabilities(true), [""; 0]);
    }

    #[test]
    fn options_are_added_unless_the_operator_names_them() {
        let added = |configured: &[&str]| {
            let configured: Vec<String> = configured.iter().map(|o| o.to_string()).collect();
            features(true, true).overlay_options(&configured)
        };
        assert_eq!(added(&[]), ["userxattr", "index=off"]);
        assert_eq!(
            added(&["index=on", "volatile"]),
            ["index=on", "volatile", "userxattr"]
        );
        assert_eq!(added(&["userxattr"]), ["userxattr", "index=off"]);
    }

    #[test]
    fn options_that_a_snapshot_sets_itself_are_refused() {
        for bad in ["", "upperdir=/x", "uidmap=0:0:1", "a,b"] {
            let error = check_options(&[bad.to_owned()]).unwrap_err();
            assert!(error.to_string().starts_with("mount option "), "{error}");
        }
        check_options(&["volatile".to_owned(), "index=on".to_owned()]).unwrap();
    }
}
