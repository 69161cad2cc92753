//! Decides what follows when a task ends. Pure: time is an argument.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::backoff::{Backoff, BackoffConfig, GiveUp, Jitter, Next};
use crate::counters::counters;

/// Longest piece of an error or a panic that is remembered, in bytes.
const MAX_SAID: usize = 256;

/// After which ends a task is started again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Restart {
    /// After a failure or a panic; one that ends well is done.
    #[default]
    OnFailure,
    /// After every end.
    Always,
    /// Never.
    Never,
}

/// How a task is kept running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskConfig {
    /// After which ends it is started again. Default [`Restart::OnFailure`].
    pub restart: Restart,
    /// Pauses before it is started again: 100 ms, doubling up to 30 s, by default, and short again
    /// once it ran for [`stable_after`](BackoffConfig::stable_after), a minute. Never gives up.
    pub backoff: BackoffConfig,
    /// How long it may take to end when it is asked to; it is cut off then. Default 300 ms.
    pub grace: Duration,
}

impl Default for TaskConfig {
    fn default() -> Self {
        Self {
            restart: Restart::default(),
            backoff: BackoffConfig {
                base: Duration::from_millis(100),
                jitter: Jitter::Equal,
                ..BackoffConfig::default()
            },
            grace: Duration::from_millis(300),
        }
    }
}

/// How a task ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ended {
    /// It is done.
    Well,
    /// It failed, and what it said.
    Failed(String),
    /// It panicked, and what it said.
    Panicked(String),
}

/// What follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum After {
    /// It is started again at this time.
    Restart(Instant),
    /// It is not.
    Rest,
}

/// Where a task stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TaskState {
    /// It runs.
    Running {
        /// Since when.
        since: Instant,
    },
    /// It failed, and is started again.
    Waiting {
        /// When.
        until: Instant,
    },
    /// It ended well, and is not started again.
    Done,
    /// It failed, and is not started again.
    Failed,
    /// It was told to stop.
    Stopped,
}

impl TaskState {
    /// The name used in status and metrics.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Running { .. } => "running",
            Self::Waiting { .. } => "waiting",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Stopped => "stopped",
        }
    }
}

counters! {
    /// How often what happened to a task. `starts` is one more than it was started again.
    pub struct TaskCounters {
        /// Starts, the first included.
        starts,
        /// Ends that were good.
        ended,
        /// Failures.
        failures,
        /// Panics.
        panics,
    }
}

/// One task, as a status report shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TaskStatus {
    /// Its name.
    pub name: Arc<str>,
    /// Where it stands.
    pub state: TaskState,
    /// How often what happened.
    pub counters: TaskCounters,
    /// What it said when it failed last, its beginning.
    pub said: Option<String>,
}

/// One task's life.
///
/// ```
/// use std::time::{Duration, Instant};
/// use vpn_resilience::supervise::{After, Ended, Task, TaskConfig};
///
/// let now = Instant::now();
/// let mut task = Task::new("rules", TaskConfig::default(), 42);
/// task.started(now);
/// let After::Restart(at) = task.ended(Ended::Panicked("no rules".to_owned()), now) else {
///     panic!("a task that panics is started again");
/// };
/// assert!(at - now <= Duration::from_millis(100));
/// ```
#[derive(Debug)]
pub struct Task {
    name: Arc<str>,
    restart: Restart,
    backoff: Backoff,
    state: TaskState,
    counters: TaskCounters,
    said: Option<String>,
}

impl Task {
    /// A task that was not started yet. Pauses are drawn from `seed`.
    pub fn new(name: &str, config: TaskConfig, seed: u64) -> Self {
        Self {
            name: name.into(),
            restart: config.restart,
            backoff: Backoff::new(config.backoff, seed),
            state: TaskState::Done,
            counters: TaskCounters::ZERO,
            said: None,
        }
    }

    /// It starts.
    pub fn started(&mut self, now: Instant) {
        self.counters.starts += 1;
        // A success if it lasts.
        self.backoff.succeeded(now);
        self.state = TaskState::Running { since: now };
    }

    /// It ended by itself.
    pub fn ended(&mut self, ended: Ended, now: Instant) -> After {
        let well = ended == Ended::Well;
        match ended {
            Ended::Well => self.counters.ended += 1,
            Ended::Failed(said) => {
                self.counters.failures += 1;
                self.said = Some(shortened(said));
            }
            Ended::Panicked(said) => {
                self.counters.panics += 1;
                self.said = Some(shortened(said));
            }
        }
        let again = match self.restart {
            Restart::Always => true,
            Restart::OnFailure => !well,
            Restart::Never => false,
        };
        let next = if again {
            self.backoff.failed(now)
        } else {
            Next::GiveUp(GiveUp::Pointless { attempts: 1 })
        };
        match next {
            Next::At(until) => {
                self.state = TaskState::Waiting { until };
                After::Restart(until)
            }
            Next::GiveUp(_) => {
                self.state = if well {
                    TaskState::Done
                } else {
                    TaskState::Failed
                };
                After::Rest
            }
        }
    }

    /// It was told to stop, and has ended.
    pub const fn stopped(&mut self) {
        self.state = TaskState::Stopped;
    }

    /// All there is to report of it.
    pub fn status(&self) -> TaskStatus {
        TaskStatus {
            name: self.name.clone(),
            state: self.state,
            counters: self.counters,
            said: self.said.clone(),
        }
    }
}

/// The beginning of it, whole characters.
fn shortened(mut said: String) -> String {
    let mut end = MAX_SAID.min(said.len());
    while !said.is_char_boundary(end) {
        end -= 1;
    }
    said.truncate(end);
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exact(restart: Restart) -> Task {
        let mut config = TaskConfig {
            restart,
            ..TaskConfig::default()
        };
        config.backoff.jitter = Jitter::None;
        Task::new("t", config, 0)
    }

    fn pause(task: &mut Task, now: Instant) -> Duration {
        match task.ended(Ended::Failed("no".to_owned()), now) {
            After::Restart(at) => at - now,
            After::Rest => panic!("it rests"),
        }
    }

    #[test]
    fn pauses_grow_until_it_has_run_for_a_minute() {
        let (mut task, mut now) = (exact(Restart::OnFailure), Instant::now());
        for expected in [100, 200, 400, 800] {
            task.started(now);
            now += Duration::from_secs(50);
            assert_eq!(pause(&mut task, now), Duration::from_millis(expected));
        }
        task.started(now);
        now += Duration::from_secs(60);
        assert_eq!(pause(&mut task, now), Duration::from_millis(100));
    }

    #[test]
    fn what_follows_depends_on_how_it_ended() {
        use Restart::*;
        let now = Instant::now();
        let (well, ill) = (Ended::Well, Ended::Panicked("no".to_owned()));
        for (restart, ended, again) in [
            (OnFailure, &well, false),
            (OnFailure, &ill, true),
            (Always, &well, true),
            (Always, &ill, true),
            (Never, &ill, false),
        ] {
            let mut task = exact(restart);
            task.started(now);
            let after = task.ended(ended.clone(), now);
            assert_eq!(matches!(after, After::Restart(_)), again, "{restart:?}");
        }
    }

    #[test]
    fn what_it_said_is_cut_between_characters() {
        let (mut task, now) = (exact(Restart::Never), Instant::now());
        task.ended(Ended::Failed("x".to_owned() + &"ß".repeat(1000)), now);
        let said = task.status().said.unwrap();
        assert_eq!(said.len(), 255);
    }
}
