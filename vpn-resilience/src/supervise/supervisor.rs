//! Spawns tasks, catches their panics, starts them again, and stops them in reverse.

use std::any::Any;
use std::fmt::{self, Debug};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

use super::task::{After, Ended, Task, TaskConfig, TaskCounters, TaskState, TaskStatus};
use crate::time::later;

/// Tasks of one supervisor; more is a mistake, for a task is a part of the program, not a piece of
/// work.
pub const MAX_TASKS: usize = 256;

/// What is kept for cutting off, of the time for stopping.
const FOR_CUTTING_OFF: Duration = Duration::from_millis(100);

/// How long a task that is cut off may take to give way: far longer than one does that does not
/// block its thread, and short enough that one which does takes no time from the others.
const GIVES_WAY: Duration = Duration::from_millis(20);

/// Bounds of a [`Supervisor`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SupervisorConfig {
    /// How long stopping takes at most, all tasks together. Default 900 ms.
    pub stop_within: Duration,
    /// Seed of the pauses. Default 0.
    pub seed: u64,
}

impl Default for SupervisorConfig {
    fn default() -> Self {
        Self {
            stop_within: Duration::from_millis(900),
            seed: 0,
        }
    }
}

/// Why a task was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SupervisorError {
    /// The supervisor was stopped. Make a new one.
    #[error("task {0}: the supervisor was stopped")]
    Stopped(String),
    /// It has [`MAX_TASKS`] that have not ended.
    #[error("task {0}: the supervisor has {MAX_TASKS} already")]
    Full(String),
}

/// What stopping came to. `ended + cut_off + stuck` tasks had not ended before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stopped {
    /// Tasks that ended when they were asked to.
    pub ended: usize,
    /// Tasks that were cut off because they took longer.
    pub cut_off: usize,
    /// Tasks that block their thread: they end as soon as they give way, and nobody waits.
    pub stuck: usize,
}

/// All tasks, as a status report shows them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SupervisorReport {
    /// Each task, in the order they were spawned.
    pub tasks: Vec<TaskStatus>,
    /// Sums over all tasks there ever were.
    pub counters: TaskCounters,
}

/// Keeps tasks running. Clones are the same supervisor; with the last one dropped, all tasks are cut
/// off.
///
/// A panic is caught if it unwinds: with `panic = "abort"` it ends the process.
///
/// ```
/// use std::time::Duration;
/// use vpn_resilience::supervise::{Supervisor, SupervisorConfig, TaskConfig};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), vpn_resilience::supervise::SupervisorError> {
/// let supervisor = Supervisor::new(SupervisorConfig::default());
/// let mut times = 0;
/// supervisor.spawn("reader", TaskConfig::default(), move |stop| {
///     times += 1;
///     async move {
///         if times < 3 {
///             return Err("no device yet");
///         }
///         stop.cancelled().await;
///         Ok(())
///     }
/// })?;
/// tokio::time::sleep(Duration::from_secs(1)).await;
/// assert_eq!(supervisor.report().counters.starts, 3);
/// let stopped = supervisor.stop().await;
/// assert_eq!((stopped.ended, stopped.cut_off), (1, 0));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Supervisor(Arc<Shared>);

struct Shared {
    config: SupervisorConfig,
    tasks: Mutex<Tasks>,
    /// Held by who stops them.
    stopping: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Tasks {
    /// In the order they were spawned; those that ended make room.
    children: Vec<Arc<Child>>,
    stopped: bool,
    /// How many there ever were.
    spawned: u64,
    /// Of those that made room.
    counters: TaskCounters,
}

struct Child {
    task: Arc<Mutex<Task>>,
    stop: CancellationToken,
    grace: Duration,
    abort: tokio::task::AbortHandle,
    /// Only who stops waits for it.
    end: tokio::sync::Mutex<JoinHandle<()>>,
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Supervisor {
    /// A supervisor without tasks.
    pub fn new(config: SupervisorConfig) -> Self {
        Self(Arc::new(Shared {
            config,
            tasks: Mutex::default(),
            stopping: tokio::sync::Mutex::default(),
        }))
    }

    /// Spawns a task on the runtime of the caller. `make` makes it, each time anew, and hands it a
    /// token that is cancelled when it is to stop: it has its [`grace`](TaskConfig::grace) then.
    ///
    /// # Errors
    ///
    /// [`SupervisorError`]; nothing was spawned then.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime, as `tokio::spawn`.
    pub fn spawn<F, T, E>(
        &self,
        name: &str,
        config: TaskConfig,
        make: F,
    ) -> Result<(), SupervisorError>
    where
        F: FnMut(CancellationToken) -> T + Send + 'static,
        T: Future<Output = Result<(), E>> + Send + 'static,
        E: fmt::Display + 'static,
    {
        let mut tasks = lock(&self.0.tasks);
        if tasks.stopped {
            return Err(SupervisorError::Stopped(name.to_owned()));
        }
        if tasks.children.len() >= MAX_TASKS {
            tasks.make_room();
        }
        if tasks.children.len() >= MAX_TASKS {
            return Err(SupervisorError::Full(name.to_owned()));
        }
        tasks.spawned += 1;
        let seed = self.0.config.seed.wrapping_add(tasks.spawned);
        let task = Arc::new(Mutex::new(Task::new(name, config, seed)));
        let stop = CancellationToken::new();
        let end = tokio::spawn(keep_running(task.clone(), stop.clone(), make));
        tasks.children.push(Arc::new(Child {
            task,
            stop,
            grace: config.grace,
            abort: end.abort_handle(),
            end: tokio::sync::Mutex::new(end),
        }));
        Ok(())
    }

    /// Stops all tasks, the last one first: a task is asked to end only after all that were spawned
    /// later have ended. No task can be spawned afterwards.
    ///
    /// Calling it again, also at the same time, waits for the same end. Dropped half-way, it can be
    /// called again and goes on.
    pub async fn stop(&self) -> Stopped {
        lock(&self.0.tasks).stopped = true;
        let _alone = self.0.stopping.lock().await;
        let cut_off_by = within(self.0.config.stop_within);
        let grace_by = cut_off_by
            .checked_sub(FOR_CUTTING_OFF)
            .unwrap_or(cut_off_by)
            .max(Instant::now());
        let mut stopped = Stopped::default();
        loop {
            let last = lock(&self.0.tasks).children.last().cloned();
            let Some(child) = last else { break };
            let over = child.abort.is_finished();
            child.stop.cancel();
            let mut end = child.end.lock().await;
            let grace = within(child.grace).min(grace_by);
            if timeout_at(grace, &mut *end).await.is_ok() {
                stopped.ended += usize::from(!over);
            } else {
                child.abort.abort();
                let gives_way = within(GIVES_WAY).min(cut_off_by);
                match timeout_at(gives_way, &mut *end).await {
                    Ok(_) => stopped.cut_off += 1,
                    Err(_) => stopped.stuck += 1,
                }
            }
            drop(end);
            if !over {
                lock(&child.task).stopped();
            }
            let mut tasks = lock(&self.0.tasks);
            tasks.counters.merge(&lock(&child.task).status().counters);
            tasks.children.pop();
        }
        stopped
    }

    /// Whether it was told to stop.
    pub fn is_stopped(&self) -> bool {
        lock(&self.0.tasks).stopped
    }

    /// All there is to report.
    pub fn report(&self) -> SupervisorReport {
        let tasks = lock(&self.0.tasks);
        let each = tasks
            .children
            .iter()
            .map(|child| lock(&child.task).status());
        let mut report = SupervisorReport {
            counters: tasks.counters,
            tasks: each.collect(),
        };
        for task in &report.tasks {
            report.counters.merge(&task.counters);
        }
        report
    }
}

impl Debug for Supervisor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Supervisor").field(&self.report()).finish()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        for child in lock(&self.tasks).children.iter().rev() {
            child.abort.abort();
        }
    }
}

impl Tasks {
    /// Forgets tasks that ended.
    fn make_room(&mut self) {
        let counters = &mut self.counters;
        self.children.retain(|child| {
            let status = lock(&child.task).status();
            let over = matches!(status.state, TaskState::Done | TaskState::Failed);
            if over && child.abort.is_finished() {
                counters.merge(&status.counters);
                return false;
            }
            true
        });
    }
}

/// Runs a task until it is done or told to stop.
async fn keep_running<F, T, E>(task: Arc<Mutex<Task>>, stop: CancellationToken, mut make: F)
where
    F: FnMut(CancellationToken) -> T,
    T: Future<Output = Result<(), E>>,
    E: fmt::Display,
{
    while !stop.is_cancelled() {
        lock(&task).started(now());
        let token = stop.clone();
        let ended = match catch_unwind(AssertUnwindSafe(|| make(token))) {
            Ok(work) => Caught(Some(Box::pin(work))).await,
            Err(panic) => Ended::Panicked(said(&*panic)),
        };
        if stop.is_cancelled() && ended == Ended::Well {
            return;
        }
        let after = lock(&task).ended(ended, now());
        let After::Restart(at) = after else { return };
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = sleep_until(at.into()) => {}
        }
    }
}

/// The time; tests may have paused it.
fn now() -> std::time::Instant {
    Instant::now().into_std()
}

/// So long from now.
fn within(time: Duration) -> Instant {
    later(now(), time).into()
}

/// A future whose panics are its end. What panicked is dropped and never polled again.
struct Caught<T>(Option<Pin<Box<T>>>);

impl<T, E> Future for Caught<T>
where
    T: Future<Output = Result<(), E>>,
    E: fmt::Display,
{
    type Output = Ended;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Ended> {
        let work = &mut self.0;
        let result = catch_unwind(AssertUnwindSafe(|| {
            let Some(running) = work else {
                return Poll::Ready(Ended::Well);
            };
            let Poll::Ready(result) = running.as_mut().poll(context) else {
                return Poll::Pending;
            };
            // What it holds is dropped here, where a panic of that is caught too.
            *work = None;
            Poll::Ready(match result {
                Ok(()) => Ended::Well,
                Err(error) => Ended::Failed(error.to_string()),
            })
        }));
        result.unwrap_or_else(|panic| {
            // Dropping what panicked may panic again; once is enough to know.
            let _ = catch_unwind(AssertUnwindSafe(|| *work = None));
            Poll::Ready(Ended::Panicked(said(&*panic)))
        })
    }
}

/// What a panic said.
fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("a panic without words").to_owned()
}
