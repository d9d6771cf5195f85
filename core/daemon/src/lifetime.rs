//! From the first request to the last: serving, signals, and the drain.

use std::io;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use signal_hook::flag::register_conditional_shutdown;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinError, JoinHandle};

use crate::admin::{self, Admin};
use crate::config::{LimitsSection, LogLevel};
use crate::error::Error;
use crate::health::Health;
use crate::log::Level;
use crate::plugin::Engine;
use crate::service::Service;
use crate::status::Chain;
use crate::{metrics, notify, server};

/// How long clients may take to read their last answers and close, once no request is worked on any more.
const FAREWELL_TIME_MAX: Duration = Duration::from_secs(1);

/// What the end may take after the requests: closing the engine and its database.
const CLOSE_TIME_MAX: Duration = Duration::from_secs(15);

/// What the process exits with when a second signal ends it.
const EXIT_CUT_SHORT: i32 = 1;

/// Threads that read and write sockets. The work is done on others, by the limit of requests.
pub(crate) const SOCKET_THREADS: usize = 2;

/// What a daemon serves with.
pub(crate) struct Lifetime {
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) mounts_are_quick: bool,
    pub(crate) limits: LimitsSection,
    pub(crate) level: Arc<Level>,
}

impl Lifetime {
    /// Serves on `listener` and `admin` until a signal; at SIGHUP `reread` answers the log level to take. From then on
    /// another signal ends the process at once, whatever it waits for.
    pub(crate) async fn run(
        self,
        listener: UnixListener,
        admin: Option<admin::Endpoint>,
        reread: impl Fn() -> Result<LogLevel, Error>,
    ) -> Result<(), Error> {
        let mut signals = Signals::new()?;
        let gate = Gate::new(&self.limits);
        let health = Arc::new(Health::new(Arc::clone(&self.engine)));
        let (registry, rpcs) = metrics::registry(Arc::clone(&self.engine));
        let engine = Arc::clone(&self.engine);
        let service = Service::new(
            self.engine,
            self.mounts_are_quick,
            Arc::clone(&gate.places),
            SOCKET_THREADS,
            rpcs,
        );
        let (stop, stopped) = watch::channel(false);
        let connections = usize::from(self.limits.connections.0);
        let mut server = tokio::spawn(server::serve(listener, service, connections, stopped));
        let admin = admin.map(|endpoint| {
            let admin = Admin::new(
                engine,
                Arc::clone(&health),
                registry,
                Arc::clone(&self.level),
            );
            tokio::spawn(admin::serve(endpoint, Arc::new(admin)))
        });
        tokio::spawn(notify::keep_watchdog_calm(Arc::clone(&health)));
        health.set_serving(true);
        notify::ready("serving");
        tracing::info!("serving");
        let failed = tokio::select! {
            ended = &mut server => Some(server_failure(ended)),
            () = signals.until_stop(&self.level, reread) => None,
        };
        signals.ending.store(true, Ordering::SeqCst);
        if let Some(error) = failed {
            return Err(error);
        }
        health.set_serving(false);
        notify::stopping(gate.drain_time_max + FAREWELL_TIME_MAX + CLOSE_TIME_MAX);
        tracing::info!("stopping: finishing requests; a second signal ends it at once");
        // Nobody listens if the server is gone, and then there is nothing to stop.
        let _ = stop.send(true);
        gate.drain(server).await;
        if let Some(admin) = admin {
            admin.abort();
            // Its socket's file is gone when the task is, which a runtime that shuts down does not wait for.
            let _ = admin.await;
        }
        Ok(())
    }
}

fn server_failure(ended: Result<io::Result<()>, JoinError>) -> Error {
    let source = match ended {
        Ok(Ok(())) => io::Error::other("it ended without being asked to"),
        Ok(Err(error)) => error,
        Err(error) => error.into(),
    };
    Error::System {
        operation: "serving gRPC",
        source,
    }
}

/// The places of requests: one is taken for as long as a request is worked on.
struct Gate {
    places: Arc<Semaphore>,
    places_max: u16,
    drain_time_max: Duration,
}

impl Gate {
    fn new(limits: &LimitsSection) -> Self {
        Gate {
            places: Arc::new(Semaphore::new(limits.requests.0.into())),
            places_max: limits.requests.0,
            drain_time_max: Duration::from_secs(limits.drain_seconds.0.into()),
        }
    }

    /// Waits until nothing is worked on, and until `server` has closed its connections, both not for ever.
    async fn drain(&self, server: JoinHandle<io::Result<()>>) {
        let all = self.places.acquire_many(self.places_max.into());
        if tokio::time::timeout(self.drain_time_max, all)
            .await
            .is_err()
        {
            let left = usize::from(self.places_max) - self.places.available_permits();
            tracing::warn!(left, "requests did not finish in time and are cut off");
        }
        // Requests that wait for a place are told to come again.
        self.places.close();
        if tokio::time::timeout(FAREWELL_TIME_MAX, server)
            .await
            .is_err()
        {
            tracing::debug!("connections did not close in time and are cut off");
        }
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    /// While true, a signal to stop ends the process at once.
    ending: Arc<AtomicBool>,
}

impl Signals {
    fn new() -> Result<Self, Error> {
        let failed = |source| Error::System {
            operation: "catching signals",
            source,
        };
        let catch = |kind| signal(kind).map_err(failed);
        let ending = Arc::new(AtomicBool::new(false));
        for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
            // In the handler itself, because what hangs may be anything: a worker, or the engine that is closed.
            let ends = Arc::clone(&ending);
            register_conditional_shutdown(kind.as_raw_value(), EXIT_CUT_SHORT, ends)
                .map_err(failed)?;
        }
        Ok(Signals {
            terminate: catch(SignalKind::terminate())?,
            interrupt: catch(SignalKind::interrupt())?,
            hangup: catch(SignalKind::hangup())?,
            ending,
        })
    }

    /// Returns at SIGTERM or SIGINT; at SIGHUP meanwhile the log level becomes what `reread` answers.
    async fn until_stop(&mut self, level: &Level, reread: impl Fn() -> Result<LogLevel, Error>) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.hangup.recv() => match reread() {
                    Ok(new) => level.set(new),
                    Err(error) => tracing::error!(error = %Chain(&error), "the log level stays"),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::SocketAddr;
    use std::process::{Command, Stdio};

    use rustix::process::{Pid, Signal, kill_process};

    use super::*;
    use crate::config::LogFormat;
    use crate::health::tests::Probed;
    use crate::log;

    /// How long anything may take that takes milliseconds on an idle machine.
    const PATIENCE: Duration = Duration::from_secs(20);

    const NAME: &str = "lifetime::tests::a_second_signal_ends_even_an_end_that_hangs";

    /// Says that the test is run by itself, as the process that gets the signals.
    const INSIDE: &str = "PONTOON_TEST_INSIDE";

    const HANGING: &str = "hanging";

    /// Serves until a signal, and then does not end as a closed engine does not whose disk is stuck.
    fn hang() {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(1).enable_all().build().unwrap();
        let name = format!("pontoon-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(name).unwrap();
        let listener = UnixListener::bind_addr(&address).unwrap();
        let level = log::start(LogLevel(tracing::Level::INFO.into()), LogFormat::Text);
        let lifetime = Lifetime {
            engine: Arc::new(Probed(|| Ok(()))),
            mounts_are_quick: true,
            limits: LimitsSection::default(),
            level: Arc::new(level),
        };
        let reread = || Ok(LogLevel(tracing::Level::INFO.into()));
        runtime.block_on(async {
            let run = lifetime.run(listener, None, reread);
            tokio::time::timeout(PATIENCE, run).await.unwrap().unwrap();
        });
        tracing::info!("{HANGING}");
        std::thread::sleep(PATIENCE);
    }

    #[test]
    fn a_second_signal_ends_even_an_end_that_hangs() {
        if std::env::var_os(INSIDE).is_some() {
            return hang();
        }
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", NAME, "--nocapture"]);
        command.env(INSIDE, "").stdout(Stdio::null());
        let mut daemon = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut log = BufReader::new(daemon.stderr.take().unwrap()).lines();
        for (line, signal) in [(" serving", Signal::TERM), (HANGING, Signal::INT)] {
            log.find(|found| found.as_ref().unwrap().contains(line))
                .unwrap_or_else(|| panic!("it ended before {line}"))
                .unwrap();
            kill_process(Pid::from_child(&daemon), signal).unwrap();
        }
        assert_eq!(daemon.wait().unwrap().code(), Some(EXIT_CUT_SHORT));
    }
}
