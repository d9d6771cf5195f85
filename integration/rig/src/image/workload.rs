//! Programs whose start is measured: root file systems of Debian packages, in four layers,
//! compressed as most builders of images do.

use super::debian::install;
use super::program::layers;
use super::{LayerBuilder, Layout, Spec};
use crate::error::Result;

/// A program that has something to do at its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Workload {
    /// Python imports numpy and pandas and adds a column up.
    Python,
    /// An HTTP server of Node.js answers.
    Node,
    /// PostgreSQL makes a database, starts and answers a query.
    Postgres,
    /// OpenJDK compiles a class and runs it.
    Java,
    /// nginx starts and answers with its first page.
    Nginx,
    /// gcc compiles a program, which runs.
    Gcc,
    /// Redis starts and counts.
    Redis,
    /// FFmpeg, with its two hundred libraries, encodes a second of a test picture.
    Ffmpeg,
}

/// What the line begins with that a workload prints when it has done its first useful work.
pub const READY: &str = "ready";

impl Workload {
    /// Every one.
    pub const ALL: [Self; 8] = [
        Self::Python,
        Self::Node,
        Self::Postgres,
        Self::Java,
        Self::Nginx,
        Self::Gcc,
        Self::Redis,
        Self::Ffmpeg,
    ];

    /// A name for files, repositories and tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Python => "python",
            Self::Node => "node",
            Self::Postgres => "postgres",
            Self::Java => "java",
            Self::Nginx => "nginx",
            Self::Gcc => "gcc",
            Self::Redis => "redis",
            Self::Ffmpeg => "ffmpeg",
        }
    }

    fn packages(self) -> &'static str {
        match self {
            Self::Python => "python3-numpy,python3-pandas",
            Self::Node => "nodejs",
            Self::Postgres => "postgresql-15",
            Self::Java => "openjdk-17-jdk-headless",
            Self::Nginx => "nginx-light",
            Self::Gcc => "gcc,libc6-dev",
            Self::Redis => "redis-server",
            Self::Ffmpeg => "ffmpeg",
        }
    }

    /// The script that the image runs, in bash, which can open connections by itself.
    fn script(self) -> &'static str {
        match self {
            Self::Python => {
                "python3 -c 'import numpy, pandas; \
                 print(\"ready\", pandas.DataFrame({\"a\": numpy.arange(7)}).a.sum())'"
            }
            Self::Node => {
                "node -e 'const http = require(\"http\"); \
                 http.createServer((_, answer) => answer.end(\"ok\")).listen(8080, () => \
                 http.get(\"http://127.0.0.1:8080\", answer => \
                 { console.log(\"ready\", answer.statusCode); process.exit() }))'"
            }
            Self::Postgres => {
                "install -d -o postgres -m 700 /tmp/data; cd /tmp; \
                 bin=/usr/lib/postgresql/15/bin; su postgres -c \"\
                 $bin/initdb -D /tmp/data >/dev/null && \
                 $bin/pg_ctl -D /tmp/data -w -l /tmp/log \
                 -o '-k /tmp -c listen_addresses=' start >/dev/null && \
                 $bin/psql -h /tmp -Atc \\\"select 'ready ' || 6*7\\\"\""
            }
            Self::Java => {
                "cd /tmp; echo 'class A { public static void main(String[] a) \
                 { System.out.println(\"ready \" + 6 * 7); } }' > A.java; \
                 javac A.java && java A"
            }
            Self::Nginx => {
                "mkdir -p /var/log/nginx; nginx; \
                 until exec 3<>/dev/tcp/127.0.0.1/80; do sleep 0.01; done 2>/dev/null; \
                 printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3; \
                 read -r protocol status rest <&3; echo ready $status"
            }
            Self::Gcc => {
                "cd /tmp; printf '%s\\n' '#include <stdio.h>' \
                 'int main(void) { printf(\"ready %d\\n\", 6 * 7); }' > a.c; \
                 gcc -O1 -o a a.c && ./a"
            }
            Self::Redis => {
                "redis-server --daemonize yes >/dev/null; \
                 until redis-cli set a 41 >/dev/null 2>&1; do sleep 0.01; done; \
                 echo ready $(redis-cli incr a)"
            }
            Self::Ffmpeg => {
                "ffmpeg -v error -f lavfi -i testsrc=duration=1:size=320x240:rate=25 \
                 -c:v libx264 -f null - && echo ready 42"
            }
        }
    }

    /// The line that it prints when it has done its first useful work.
    pub fn line(self) -> &'static str {
        match self {
            Self::Python => "ready 21",
            Self::Node | Self::Nginx => "ready 200",
            _ => "ready 42",
        }
    }

    /// What the image runs, to be told to whoever runs it otherwise.
    pub fn command(self) -> Vec<String> {
        vec!["/bin/bash".into(), "-c".into(), self.script().into()]
    }

    /// Its image, made on the first call.
    pub fn image(self) -> Result<Layout> {
        let name = format!("workload-{}", self.name());
        install(&name, self.packages(), "1", |dir, root| {
            let begin = || LayerBuilder::new().well_compressed();
            Layout::write(dir, &self.spec(), &layers(root, &begin)?).map(drop)
        })
    }

    /// What its image is made of, beside its layers.
    pub fn spec(self) -> Spec {
        Spec {
            command: self.command(),
            environment: vec![
                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into(),
                "LC_ALL=C.UTF-8".into(),
            ],
        }
    }
}
