//! From directories to mounts. Pure.

use pontoon_snapshot::{Kind, Mount};

use crate::request::IdMapping;

/// Whether a snapshot has a directory of its own. A view on a parent mounts what is below it and nothing else.
pub(crate) fn uses_directory(kind: Kind, has_parent: bool) -> bool {
    kind != Kind::View || !has_parent
}

/// Everything that the mounts of an active or view snapshot depend on.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    /// Active or view.
    pub(crate) kind: Kind,
    /// The snapshot's own `fs` and `work`.
    pub(crate) upper: String,
    pub(crate) work: String,
    /// What is below it, nearest first.
    pub(crate) lower: Vec<String>,
    /// The empty directory, if this is the extraction of a layer.
    pub(crate) extract_on: Option<&'a str>,
    pub(crate) id_mapping: Option<&'a IdMapping>,
    /// Options of every overlay.
    pub(crate) options: &'a [String],
}

impl Plan<'_> {
    /// The mounts; always one.
    ///
    /// A layer that is extracted without a parent gets an overlay too, on an empty directory: only then does
    /// containerd write whiteouts in overlayfs's form, without which a later rebase would bring back what the
    /// layer deletes.
    pub(crate) fn mounts(mut self) -> Vec<Mount> {
        let mut options = match self.id_mapping {
            Some(mapping) => mapping.mount_options().to_vec(),
            None => Vec::new(),
        };
        if self.lower.is_empty() {
            match self.extract_on {
                Some(empty) if self.kind == Kind::Active => self.lower.push(empty.to_owned()),
                _ => return vec![bind(self.upper, self.kind, options)],
            }
        }
        if self.kind == Kind::Active {
            options.push(format!("workdir={}", self.work));
            options.push(format!("upperdir={}", self.upper));
        } else if self.lower.len() == 1 {
            return vec![bind(self.lower.remove(0), self.kind, options)];
        }
        options.push(format!("lowerdir={}", self.lower.join(":")));
        options.extend_from_slice(self.options);
        vec![Mount {
            fs_type: "overlay".to_owned(),
            source: "overlay".to_owned(),
            target: String::new(),
            options,
        }]
    }
}

fn bind(source: String, kind: Kind, mut options: Vec<String>) -> Mount {
    let access = if kind == Kind::Active { "rw" } else { "ro" };
    options.extend([access.to_owned(), "rbind".to_owned()]);
    Mount {
        fs_type: "bind".to_owned(),
        source,
        target: String::new(),
        options,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan<'a>(kind: Kind, lower: &[&str], options: &'a [String]) -> Plan<'a> {
        Plan {
            kind,
            upper: "/r/9/fs".to_owned(),
            work: "/r/9/work".to_owned(),
            lower: lower.iter().map(|path| path.to_string()).collect(),
            extract_on: None,
            id_mapping: None,
            options,
        }
    }

    fn check(plan: Plan<'_>, fs_type: &str, source: &str, options: &[&str]) {
        let mounts = plan.mounts();
        assert_eq!(mounts.len(), 1);
        assert_eq!(mounts[0].fs_type, fs_type);
        assert_eq!(mounts[0].source, source);
        assert_eq!(mounts[0].target, "");
        assert_eq!(mounts[0].options, options);
    }

    #[test]
    fn bind_or_overlay_as_containerds_own() {
        let extra = ["index=off".to_owned()];
        let of = |kind, lower: &[&str]| plan(kind, lower, &extra);
        check(of(Kind::Active, &[]), "bind", "/r/9/fs", &["rw", "rbind"]);
        check(of(Kind::View, &[]), "bind", "/r/9/fs", &["ro", "rbind"]);
        check(of(Kind::View, &["/l"]), "bind", "/l", &["ro", "rbind"]);
        let writable = ["workdir=/r/9/work", "upperdir=/r/9/fs"];
        check(
            of(Kind::Active, &["/l"]),
            "overlay",
            "overlay",
            &[writable[0], writable[1], "lowerdir=/l", "index=off"],
        );
        check(
            of(Kind::Active, &["/2", "/1"]),
            "overlay",
            "overlay",
            &[writable[0], writable[1], "lowerdir=/2:/1", "index=off"],
        );
        check(
            of(Kind::View, &["/2", "/1"]),
            "overlay",
            "overlay",
            &["lowerdir=/2:/1", "index=off"],
        );
    }

    #[test]
    fn an_extract_without_a_parent_is_one_overlay_on_nothing() {
        let extract = |kind, lower: &[&str]| Plan {
            extract_on: Some("/r/empty"),
            ..plan(kind, lower, &[])
        };
        check(
            extract(Kind::Active, &[]),
            "overlay",
            "overlay",
            &["workdir=/r/9/work", "upperdir=/r/9/fs", "lowerdir=/r/empty"],
        );
        check(
            extract(Kind::Active, &["/l"]),
            "overlay",
            "overlay",
            &["workdir=/r/9/work", "upperdir=/r/9/fs", "lowerdir=/l"],
        );
        check(
            extract(Kind::View, &[]),
            "bind",
            "/r/9/fs",
            &["ro", "rbind"],
        );
    }

    #[test]
    fn mappings_come_first_in_every_form() {
        let mapping = IdMapping::parse(Some("0:5:1"), Some("0:6:1")).unwrap();
        let mapping = mapping.as_ref();
        let mapped = |kind, lower: &[&str]| Plan {
            id_mapping: mapping,
            ..plan(kind, lower, &[])
        };
        let maps = ["uidmap=0:5:1", "gidmap=0:6:1"];
        check(
            mapped(Kind::Active, &[]),
            "bind",
            "/r/9/fs",
            &[maps[0], maps[1], "rw", "rbind"],
        );
        check(
            mapped(Kind::View, &["/l"]),
            "bind",
            "/l",
            &[maps[0], maps[1], "ro", "rbind"],
        );
        check(
            mapped(Kind::View, &["/2", "/1"]),
            "overlay",
            "overlay",
            &[maps[0], maps[1], "lowerdir=/2:/1"],
        );
    }
}
