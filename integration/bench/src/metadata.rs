//! The rates of the metadata operations: one caller and several, at several numbers of snapshots.
//!
//! Both sides serve the same gRPC service on a unix socket, so both pay for the same transport; the rival is
//! containerd's own overlayfs snapshotter. The two take turns round by round, so that a noisy machine is noisy
//! for both.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use tonic::Status;

use crate::caller::Caller;
use crate::report::{Comparison, Side};

/// The operations that one cycle times, in their order.
const OPERATIONS: [&str; 7] = [
    "prepare", "mounts", "commit", "stat", "usage", "view", "remove",
];

/// How much to measure.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Effort {
    /// Rounds, in which the sides take turns.
    pub rounds: usize,
    /// Cycles per round and side with one caller.
    pub cycles: usize,
    /// How long several callers run per round and side.
    pub concurrent: Duration,
    /// The numbers of snapshots at which to measure, ascending.
    pub populations: &'static [usize],
}

/// One side with its connection and how many committed snapshots it holds.
#[derive(Debug)]
pub(crate) struct Subject {
    side: Side,
    caller: Caller,
    population: usize,
    serial: usize,
}

impl Subject {
    /// Connects to the side that listens on `socket`.
    pub(crate) async fn connect(
        side: Side,
        socket: &Path,
    ) -> Result<Self, Box<dyn std::error::Error>> {
        Ok(Subject {
            side,
            caller: Caller::connect(socket).await?,
            population: 0,
            serial: 0,
        })
    }

    /// Commits snapshots until there are `count`, in chains of ten layers.
    async fn populate(&mut self, count: usize) -> Result<(), Status> {
        while self.population < count {
            let index = self.population;
            let parent = if index.is_multiple_of(10) {
                String::new()
            } else {
                format!("layer-{}", index - 1)
            };
            let key = format!("extract-{index}");
            self.caller.prepare(&key, &parent).await?;
            self.caller.commit(&format!("layer-{index}"), &key).await?;
            self.population += 1;
        }
        Ok(())
    }

    /// One create-commit-view-remove cycle on the top of a chain; times go to `times`.
    async fn cycle(&mut self, times: &mut Times) -> Result<(), Status> {
        let serial = self.serial;
        self.serial += 1;
        let (key, name, view) = (
            format!("key-{serial}"),
            format!("name-{serial}"),
            format!("view-{serial}"),
        );
        let parent = format!("layer-{}", self.population - 1);
        times.add("prepare", self.caller.prepare(&key, &parent).await?.0);
        times.add("mounts", self.caller.mounts(&key).await?.0);
        times.add("commit", self.caller.commit(&name, &key).await?.0);
        times.add("stat", self.caller.stat(&name).await?.0);
        times.add("usage", self.caller.usage(&parent).await?.0);
        times.add("view", self.caller.view(&view, &name).await?.0);
        times.add("remove", self.caller.remove(&view).await?.0);
        times.add("remove", self.caller.remove(&name).await?.0);
        Ok(())
    }

    /// Runs `callers` at once for about `span`, each with its own keys over the one connection, and answers the
    /// number of cycles and the times of Prepare.
    async fn concurrent(
        &mut self,
        callers: usize,
        span: Duration,
    ) -> Result<(usize, Vec<Duration>), Status> {
        let parent = format!("layer-{}", self.population - 1);
        let end = Instant::now() + span;
        let mut tasks = tokio::task::JoinSet::new();
        for index in 0..callers {
            let mut caller = self.caller.clone();
            let parent = parent.clone();
            let prefix = format!("{}-{index}", self.serial);
            tasks.spawn(async move {
                let mut prepares = Vec::new();
                while Instant::now() < end {
                    let turn = prepares.len();
                    let key = format!("k-{prefix}-{turn}");
                    let name = format!("n-{prefix}-{turn}");
                    let view = format!("v-{prefix}-{turn}");
                    prepares.push(caller.prepare(&key, &parent).await?.0);
                    caller.commit(&name, &key).await?;
                    caller.view(&view, &name).await?;
                    caller.remove(&view).await?;
                    caller.remove(&name).await?;
                }
                Ok::<_, Status>(prepares)
            });
        }
        self.serial += 1;
        let mut prepares = Vec::new();
        for result in tasks.join_all().await {
            prepares.extend(result?);
        }
        Ok((prepares.len(), prepares))
    }
}

/// Times by operation.
#[derive(Debug, Default)]
struct Times(BTreeMap<&'static str, Vec<Duration>>);

impl Times {
    fn add(&mut self, operation: &'static str, time: Duration) {
        self.0.entry(operation).or_default().push(time);
    }

    fn milliseconds(&self, operation: &str) -> f64 {
        self.0
            .get(operation)
            .map_or(f64::NAN, |times| milliseconds(median(times.clone())))
    }
}

/// Measures both subjects and answers one row per operation, population and number of callers.
pub(crate) async fn measure(
    subjects: &mut [Subject],
    effort: Effort,
) -> Result<Vec<Comparison>, Box<dyn std::error::Error>> {
    let mut rows = Vec::new();
    for &population in effort.populations {
        for subject in subjects.iter_mut() {
            subject.populate(population).await?;
        }
        rows.extend(one_caller(subjects, effort, population).await?);
        rows.extend(eight_callers(subjects, effort, population).await?);
        rows.push(listing(subjects, effort.rounds * 3, population).await?);
    }
    Ok(rows)
}

async fn one_caller(
    subjects: &mut [Subject],
    effort: Effort,
    population: usize,
) -> Result<Vec<Comparison>, Status> {
    let mut times: BTreeMap<Side, Times> = BTreeMap::new();
    let mut rates: BTreeMap<Side, Vec<f64>> = BTreeMap::new();
    for round in 0..=effort.rounds {
        for subject in subjects.iter_mut() {
            let mut warm_up = Times::default();
            // The first round warms both sides up.
            let times = if round == 0 {
                &mut warm_up
            } else {
                times.entry(subject.side).or_default()
            };
            let start = Instant::now();
            for _ in 0..effort.cycles {
                subject.cycle(times).await?;
            }
            if round > 0 {
                let rate = effort.cycles as f64 / start.elapsed().as_secs_f64();
                rates.entry(subject.side).or_default().push(rate);
            }
        }
    }
    let mut rows: Vec<Comparison> = OPERATIONS
        .iter()
        .map(|operation| {
            let row = Comparison::new(format!("{operation}, p50, at {population}"), "ms");
            times.iter().fold(row, |row, (&side, times)| {
                row.with(side, times.milliseconds(operation))
            })
        })
        .collect();
    rows.push(rates.into_iter().fold(
        Comparison::new(format!("cycles, 1 caller, at {population}"), "1/s").more_is_better(),
        |row, (side, rates)| row.with(side, middle(rates)),
    ));
    Ok(rows)
}

async fn eight_callers(
    subjects: &mut [Subject],
    effort: Effort,
    population: usize,
) -> Result<Vec<Comparison>, Status> {
    const CALLERS: usize = 8;
    let mut rates: BTreeMap<Side, Vec<f64>> = BTreeMap::new();
    let mut prepares: BTreeMap<Side, Vec<Duration>> = BTreeMap::new();
    for _ in 0..effort.rounds {
        for subject in subjects.iter_mut() {
            let start = Instant::now();
            let (cycles, times) = subject.concurrent(CALLERS, effort.concurrent).await?;
            let rate = cycles as f64 / start.elapsed().as_secs_f64();
            rates.entry(subject.side).or_default().push(rate);
            prepares.entry(subject.side).or_default().extend(times);
        }
    }
    let cycles = rates.into_iter().fold(
        Comparison::new(format!("cycles, {CALLERS} callers, at {population}"), "1/s")
            .more_is_better(),
        |row, (side, rates)| row.with(side, middle(rates)),
    );
    let prepare = prepares.into_iter().fold(
        Comparison::new(
            format!("prepare, p50, {CALLERS} callers, at {population}"),
            "ms",
        ),
        |row, (side, times)| row.with(side, milliseconds(median(times))),
    );
    Ok(vec![cycles, prepare])
}

async fn listing(
    subjects: &mut [Subject],
    rounds: usize,
    population: usize,
) -> Result<Comparison, Box<dyn std::error::Error>> {
    let mut times: BTreeMap<Side, Vec<Duration>> = BTreeMap::new();
    for _ in 0..rounds {
        for subject in subjects.iter_mut() {
            let (time, count) = subject.caller.list().await?;
            if count != subject.population {
                return Err(format!("{}: listed {count} of {}", subject.side, population).into());
            }
            times.entry(subject.side).or_default().push(time);
        }
    }
    Ok(times.into_iter().fold(
        Comparison::new(format!("list, p50, at {population}"), "ms"),
        |row, (side, times)| row.with(side, milliseconds(median(times))),
    ))
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// The median of a list that is not empty.
fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// The median of numbers of which none is NaN.
pub(crate) fn middle(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}
