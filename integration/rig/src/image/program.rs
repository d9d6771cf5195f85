//! Real programs: root file systems of Debian packages, in four layers. They take
//! minutes to make and are for the long forms.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::debian::{install, owned, split};
use super::{Layer, LayerBuilder, Layout, Spec};
use crate::error::{At, Result};

/// A program in an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Program {
    /// Python with numpy.
    Numpy,
    /// Node.js.
    Node,
    /// PostgreSQL.
    Postgres,
    /// nginx.
    Nginx,
    /// OpenJDK without a display.
    OpenJdk,
    /// The C compiler.
    Gcc,
}

impl Program {
    /// Every program.
    pub const ALL: [Self; 6] = [
        Self::Numpy,
        Self::Node,
        Self::Postgres,
        Self::Nginx,
        Self::OpenJdk,
        Self::Gcc,
    ];

    /// A name for files and repositories.
    pub fn name(self) -> &'static str {
        match self {
            Self::Numpy => "numpy",
            Self::Node => "node",
            Self::Postgres => "postgres",
            Self::Nginx => "nginx",
            Self::OpenJdk => "openjdk",
            Self::Gcc => "gcc",
        }
    }

    fn packages(self) -> &'static str {
        match self {
            Self::Numpy => "python3-numpy",
            Self::Node => "nodejs",
            Self::Postgres => "postgresql-15",
            Self::Nginx => "nginx-light",
            Self::OpenJdk => "openjdk-17-jre-headless",
            Self::Gcc => "gcc,libc6-dev",
        }
    }

    /// A shell script that the image runs; it ends by printing
    /// [`expected`](Self::expected).
    fn script(self) -> &'static str {
        match self {
            Self::Numpy => "python3 -c 'import numpy; print(numpy.arange(7).sum() * 2)'",
            Self::Node => "node -e 'console.log(6 * 7)'",
            Self::Postgres => {
                "chown postgres /tmp/data 2>/dev/null || install -d -o postgres /tmp/data; \
                 cd /tmp; bin=/usr/lib/postgresql/15/bin; \
                 su postgres -c \"$bin/initdb -D /tmp/data >/dev/null && \
                 echo 'select 6*7' | $bin/postgres --single -D /tmp/data postgres\" \
                 | sed -n 's/.*= \"\\(42\\)\".*/\\1/p'"
            }
            Self::Nginx => {
                "mkdir -p /var/log/nginx; nginx -t 2>/dev/null && nginx -v 2>&1 | grep -q nginx && \
                 echo 42"
            }
            Self::OpenJdk => "java --version >/dev/null && echo 42",
            Self::Gcc => {
                "cd /tmp; printf '%s\\n' '#include <stdio.h>' \
                 'int main(){printf(\"%d\\n\",6*7);}' > a.c; \
                 gcc -O1 -o a a.c && ./a"
            }
        }
    }

    /// The last line that the image's command prints.
    pub fn expected(self) -> &'static str {
        "42"
    }
}

/// The image of `program`, made on the first call.
pub fn program(program: Program) -> Result<Layout> {
    install(program.name(), program.packages(), "3", |dir, root| {
        let spec = Spec {
            command: vec!["/bin/sh".into(), "-c".into(), program.script().into()],
            environment: vec![
                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into(),
                "LC_ALL=C.UTF-8".into(),
            ],
        };
        Layout::write(dir, &spec, &layers(root, &LayerBuilder::new)?).map(drop)
    })
}

/// The base system, then libraries, then programs, then what an author removes again, each
/// begun by `begin`.
pub(super) fn layers(root: &Path, begin: &dyn Fn() -> LayerBuilder) -> Result<Vec<Layer>> {
    let base = essential(root)?;
    let name = |file: &str| file.split(':').next().unwrap_or(file).to_owned();
    let libraries = owned(root, |file| {
        file.starts_with("lib") && !base.contains(&name(file))
    })?;
    let programs = owned(root, |file| {
        !file.starts_with("lib") && !base.contains(&name(file))
    })?;
    let mut layers = split(root, &[libraries, programs], begin)?;
    let mut top = begin();
    for dir in ["usr", "usr/share"] {
        top.dir(dir, 0o755, 0, 0)?;
    }
    top.whiteout("usr/share/man")?;
    top.dir("usr/share/doc", 0o755, 0, 0)?;
    top.opaque("usr/share/doc")?;
    top.file("usr/share/doc/README", 0o644, 0, 0, b"Removed.\n")?;
    layers.push(top.finish()?);
    Ok(layers)
}

/// The packages that every system has, from dpkg's database (dpkg(1), `status`).
fn essential(root: &Path) -> Result<BTreeSet<String>> {
    let path = root.join("var/lib/dpkg/status");
    let text = fs::read_to_string(&path).at("read", &path)?;
    let mut names = BTreeSet::new();
    for paragraph in text.split("\n\n") {
        let field = |name: &str| {
            let mut lines = paragraph.lines();
            lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
        };
        let required = field("Essential") == Some("yes") || field("Priority") == Some("required");
        if let (true, Some(name)) = (required, field("Package")) {
            names.insert(name.to_owned());
        }
    }
    Ok(names)
}
