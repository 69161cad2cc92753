//! Decides what follows when a task ends, and (feature `tokio`) keeps tasks running.
//!
//! A daemon is a handful of tasks that are to run for ever: readers, watchers, engines. Each may fail
//! or panic; none may take the process with it. A task that ends so is started again, after a pause
//! that grows with each time and is short again only after the task ran well for a while.
//!
//! [`Task`] decides; `Supervisor` spawns, catches and stops. Stopping goes backwards: what was
//! started last may rest on what was started before it, and ends first. Each task is asked to end,
//! has a moment to do so, and is cut off then; all together have less than a second.

mod task;

#[cfg(feature = "tokio")]
#[cfg_attr(docsrs, doc(cfg(feature = "tokio")))]
mod supervisor;

pub use task::{After, Ended, Restart, Task, TaskConfig, TaskCounters, TaskState, TaskStatus};

#[cfg(feature = "tokio")]
pub use supervisor::{
    MAX_TASKS, Stopped, Supervisor, SupervisorConfig, SupervisorError, SupervisorReport,
};
