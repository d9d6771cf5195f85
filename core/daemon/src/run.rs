//! A daemon's life: command line, configuration, engine, socket, service, and their end in the reverse order.

use std::io::Write;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use tokio::runtime::{Builder, Runtime};

use crate::arguments::{self, Arguments, Flags, Verb};
use crate::config::{Config, LimitsSection, LogLevel};
use crate::error::Error;
use crate::lifetime::{Lifetime, SOCKET_THREADS};
use crate::plugin::{Engine, Plugin};
use crate::socket::{self, Socket};
use crate::status::Chain;
use crate::{admin, containerd, log};

/// Blocking threads besides those of requests: probes, scrapes, and what tokio itself wants.
const SPARE_THREADS: usize = 8;

/// What a wrong command line or configuration exits with: EX_USAGE of sysexits.h.
const EXIT_USAGE: u8 = 64;

/// Runs the daemon of plugin `P` as this process's command line says; the whole of a plugin's `main`.
///
/// Exit codes: 0 after a stop that was asked for, 64 if the command line or the configuration is wrong, 1 if the
/// daemon could not start or was cut short.
pub fn run<P: Plugin>() -> ExitCode {
    let arguments = match arguments::parse(P::NAME, std::env::args_os()) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are errors to clap too. If the text cannot be printed, there is nobody to tell.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { EXIT_USAGE } else { 0 });
        }
    };
    match act::<P>(arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("pontoon-{}: {}", P::NAME, Chain(&error));
            ExitCode::from(error.exit_code())
        }
    }
}

fn act<P: Plugin>(arguments: Arguments) -> Result<ExitCode, Error> {
    let flags = arguments.flags;
    let text = match arguments.verb {
        None => return serve::<P>(&flags),
        Some(Verb::Check) => {
            configure::<P>(&flags)?;
            "the configuration is good\n".to_owned()
        }
        Some(Verb::PrintDefault) => Config::<P::Sections>::default_file(P::NAME),
        Some(Verb::PrintContainerd { containerd_version }) => {
            let config = configure::<P>(&flags)?;
            let top = &config.top;
            let capabilities = P::capabilities(&top.root, &config.plugin).map_err(Error::Probe)?;
            containerd::drop_in(
                P::NAME,
                &top.root,
                &top.address,
                &capabilities,
                P::EXPORTS,
                containerd_version,
            )
        }
    };
    let mut stdout = std::io::stdout().lock();
    let written = stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush());
    written.map_err(|source| Error::System {
        operation: "writing to standard output",
        source,
    })?;
    Ok(ExitCode::SUCCESS)
}

/// The configuration: the defaults, the file over them, the flags over that.
fn configure<P: Plugin>(flags: &Flags) -> Result<Config<P::Sections>, Error> {
    let mut config = match config_file(P::NAME, flags) {
        Some(file) => Config::load(P::NAME, &file)?,
        None => Config::new(P::NAME),
    };
    let absolute = |path: &Path| {
        std::path::absolute(path).map_err(|source| Error::System {
            operation: "finding the current directory",
            source,
        })
    };
    if let Some(root) = &flags.root {
        config.top.root = absolute(root)?;
    }
    if let Some(address) = &flags.address {
        config.top.address = absolute(address)?;
    }
    if let Some(level) = flags.log_level {
        config.log.level = level;
    }
    Ok(config)
}

fn config_file(plugin: &str, flags: &Flags) -> Option<PathBuf> {
    let usual =
        || Some(PathBuf::from(format!("/etc/pontoon/{plugin}.toml"))).filter(|file| file.exists());
    flags.config.clone().or_else(usual)
}

fn serve<P: Plugin>(flags: &Flags) -> Result<ExitCode, Error> {
    let config = configure::<P>(flags)?;
    // One for most, one so that they need not wait for each other. Where it is refused there is only more memory in use.
    pontoon_linux::process::limit_malloc_arenas(2);
    let level = Arc::new(log::start(config.log.level, config.log.format));
    raise_open_files();
    let reread = {
        let flags = flags.clone();
        move || configure::<P>(&flags).map(|config| config.log.level)
    };
    let limits = config.limits.clone();
    match start::<P>(&config).and_then(|started| started.live(limits, level, reread)) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => {
            tracing::error!(error = %Chain(&error), "the daemon cannot run");
            Ok(ExitCode::from(error.exit_code()))
        }
    }
}

/// Each open layer and each request has files. Where it is refused there are fewer, and what fails for it says so.
fn raise_open_files() {
    match pontoon_linux::process::raise_open_files() {
        Ok((before, now)) => tracing::debug!(before, now, "how many files may be open"),
        Err(error) => tracing::warn!(
            %error,
            "cannot raise how many files may be open; set LimitNOFILE= in the unit if requests fail for it"
        ),
    }
}

/// A daemon that has all it needs.
struct Started {
    engine: Arc<dyn Engine>,
    mounts_are_quick: bool,
    listener: UnixListener,
    /// `None` where the service manager made the socket and keeps it.
    socket: Option<Socket>,
    admin: Option<admin::Endpoint>,
    runtime: Runtime,
}

/// The root first, because its lock says that no other daemon works on it; then the sockets.
fn start<P: Plugin>(config: &Config<P::Sections>) -> Result<Started, Error> {
    let root = &config.top.root;
    let address = &config.top.address;
    let engine = P::open(root, &config.plugin).map_err(|source| Error::Open {
        root: root.clone(),
        source,
    })?;
    let (listener, socket) = match socket::activated()? {
        Some(listener) => (listener, None),
        None => {
            let (listener, socket) = socket::listen(address)?;
            (listener, Some(socket))
        }
    };
    let admin = admin::open(&config.admin.address, address);
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        root = %root.display(),
        address = %address.display(),
        activated = socket.is_none(),
        admin = admin.as_ref().and_then(admin::Endpoint::place).map(tracing::field::display),
        "started"
    );
    let runtime = Builder::new_multi_thread()
        .worker_threads(SOCKET_THREADS)
        .max_blocking_threads(usize::from(config.limits.requests.0) + SPARE_THREADS)
        .thread_name("pontoon")
        .enable_all()
        .build()
        .map_err(|source| Error::System {
            operation: "starting threads",
            source,
        })?;
    Ok(Started {
        engine,
        mounts_are_quick: P::MOUNTS_ARE_QUICK,
        listener,
        socket,
        admin,
        runtime,
    })
}

impl Started {
    /// Serves until the end, then undoes the start in reverse.
    fn live(
        self,
        limits: LimitsSection,
        level: Arc<log::Level>,
        reread: impl Fn() -> Result<LogLevel, Error>,
    ) -> Result<(), Error> {
        let lifetime = Lifetime {
            engine: Arc::clone(&self.engine),
            mounts_are_quick: self.mounts_are_quick,
            limits,
            level,
        };
        let outcome = self
            .runtime
            .block_on(lifetime.run(self.listener, self.admin, reread));
        // Work that outlasted its time is left behind: what it has not committed, it has not done.
        self.runtime.shutdown_background();
        if outcome.is_ok() {
            self.engine.close();
            tracing::info!("stopped");
        }
        drop(self.socket);
        outcome
    }
}
