//! The supervisor, on virtual time.
#![cfg(feature = "tokio")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::future::pending;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use vpn_resilience::supervise::{
    MAX_TASKS, Restart, Supervisor, SupervisorConfig, SupervisorError, TaskConfig, TaskState,
};

fn supervisor() -> Supervisor {
    Supervisor::new(SupervisorConfig::default())
}

fn ends(restart: Restart) -> TaskConfig {
    TaskConfig {
        restart,
        ..TaskConfig::default()
    }
}

type Outcome = Result<(), &'static str>;

#[tokio::test(start_paused = true)]
async fn a_task_that_panics_is_started_again_wherever_it_panics() {
    let supervisor = supervisor();
    let starts = Arc::new(AtomicUsize::new(0));
    let counted = starts.clone();
    let work = move |_| {
        let start = counted.fetch_add(1, SeqCst);
        assert!(start != 0, "while it is made");
        async move {
            assert!(start != 1, "before it waits");
            sleep(Duration::from_millis(10)).await;
            if start == 2 {
                std::panic::panic_any(7);
            }
            if start == 3 {
                return Err("it failed");
            }
            pending::<Outcome>().await
        }
    };
    supervisor.spawn("t", TaskConfig::default(), work).unwrap();
    sleep(Duration::from_secs(5)).await;
    let report = supervisor.report();
    let counters = report.counters;
    assert_eq!(starts.load(SeqCst), 5);
    assert_eq!(
        (counters.starts, counters.panics, counters.failures),
        (5, 3, 1)
    );
    assert_eq!(report.tasks[0].said.as_deref(), Some("it failed"));
    assert!(matches!(report.tasks[0].state, TaskState::Running { .. }));
    supervisor.stop().await;
}

/// Panics when it is dropped, as what a task holds may.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            panic!("while it is dropped");
        }
    }
}

/// Ends well, and holds on to what it has until it is dropped.
struct Holds(#[allow(dead_code, reason = "it is dropped")] Bomb);

impl Future for Holds {
    type Output = Outcome;

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Outcome> {
        Poll::Ready(Ok(()))
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_of_what_a_task_holds_is_one_of_the_task() {
    let supervisor = supervisor();
    let work = |_| Holds(Bomb);
    supervisor.spawn("t", ends(Restart::Never), work).unwrap();
    sleep(Duration::from_secs(1)).await;
    let report = supervisor.report();
    assert_eq!(report.tasks[0].state, TaskState::Failed);
    assert_eq!(report.tasks[0].said.as_deref(), Some("while it is dropped"));
}

#[tokio::test(start_paused = true)]
async fn stopping_goes_backwards_and_each_ends_before_the_next_is_asked() {
    let (supervisor, told) = (supervisor(), Arc::new(Mutex::new(Vec::new())));
    for number in 0..5 {
        let told = told.clone();
        let work = move |stop: tokio_util::sync::CancellationToken| {
            let told = told.clone();
            async move {
                stop.cancelled().await;
                told.lock().unwrap().push((number, "asked"));
                sleep(Duration::from_millis(50)).await;
                told.lock().unwrap().push((number, "ended"));
                Outcome::Ok(())
            }
        };
        supervisor.spawn("t", TaskConfig::default(), work).unwrap();
    }
    sleep(Duration::from_millis(1)).await;
    let stopped = supervisor.stop().await;
    assert_eq!((stopped.ended, stopped.cut_off, stopped.stuck), (5, 0, 0));
    let backwards: Vec<_> = (0..5)
        .rev()
        .flat_map(|n| [(n, "asked"), (n, "ended")])
        .collect();
    assert_eq!(*told.lock().unwrap(), backwards);
    assert_eq!(supervisor.report().counters.starts, 5);
    let again = supervisor.spawn("late", TaskConfig::default(), |_| pending::<Outcome>());
    assert_eq!(again, Err(SupervisorError::Stopped("late".to_owned())));
}

#[tokio::test(start_paused = true)]
async fn those_that_do_not_listen_are_cut_off_in_time() {
    let supervisor = supervisor();
    for _ in 0..MAX_TASKS {
        supervisor
            .spawn("deaf", TaskConfig::default(), |_| pending::<Outcome>())
            .unwrap();
    }
    let full = supervisor.spawn("one more", TaskConfig::default(), |_| pending::<Outcome>());
    assert_eq!(full, Err(SupervisorError::Full("one more".to_owned())));
    sleep(Duration::from_millis(1)).await;
    let begun = Instant::now();
    let stopped = supervisor.stop().await;
    assert_eq!(
        (stopped.ended, stopped.cut_off, stopped.stuck),
        (0, MAX_TASKS, 0)
    );
    assert!(begun.elapsed() <= SupervisorConfig::default().stop_within);
    assert_eq!(
        tokio::runtime::Handle::current()
            .metrics()
            .num_alive_tasks(),
        0
    );
}

#[tokio::test(start_paused = true)]
async fn stopping_twice_at_once_and_half_is_stopping_once() {
    let supervisor = supervisor();
    for _ in 0..3 {
        supervisor
            .spawn("deaf", TaskConfig::default(), |_| pending::<Outcome>())
            .unwrap();
    }
    sleep(Duration::from_millis(1)).await;
    // Dropped half-way.
    let half = tokio::time::timeout(Duration::from_millis(400), supervisor.stop()).await;
    assert!(half.is_err());
    let (one, other) = tokio::join!(supervisor.stop(), supervisor.stop());
    assert_eq!((one.cut_off, other.cut_off), (2, 0));
    assert_eq!(supervisor.stop().await.cut_off, 0);
    assert!(supervisor.is_stopped());
}

#[tokio::test(start_paused = true)]
async fn one_that_waits_to_be_started_again_stops_at_once() {
    let supervisor = supervisor();
    supervisor
        .spawn("t", TaskConfig::default(), |_| async { Err::<(), _>("no") })
        .unwrap();
    sleep(Duration::from_secs(20)).await;
    let begun = Instant::now();
    assert_eq!(supervisor.stop().await.ended, 1);
    assert_eq!(begun.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn tasks_that_are_done_make_room() {
    let supervisor = supervisor();
    for _ in 0..3 * MAX_TASKS {
        supervisor
            .spawn("t", TaskConfig::default(), |_| async { Outcome::Ok(()) })
            .unwrap();
        tokio::task::yield_now().await;
    }
    let report = supervisor.report();
    assert!(report.tasks.len() <= MAX_TASKS);
    assert_eq!(report.counters.ended, 3 * MAX_TASKS as u64);
}

#[tokio::test(start_paused = true)]
async fn with_the_last_handle_dropped_nothing_is_left() {
    let supervisor = supervisor();
    for _ in 0..3 {
        supervisor
            .spawn("t", TaskConfig::default(), |_| pending::<Outcome>())
            .unwrap();
    }
    sleep(Duration::from_millis(1)).await;
    let other = supervisor.clone();
    drop(supervisor);
    let metrics = tokio::runtime::Handle::current().metrics();
    assert_eq!(metrics.num_alive_tasks(), 3);
    drop(other);
    tokio::task::yield_now().await;
    assert_eq!(metrics.num_alive_tasks(), 0);
}

/// As long as it likes: all together end in time all the same.
#[tokio::test(start_paused = true)]
async fn a_grace_without_end_is_none() {
    for stop_within in [Duration::from_millis(900), Duration::MAX] {
        let config = SupervisorConfig {
            stop_within,
            ..SupervisorConfig::default()
        };
        let supervisor = Supervisor::new(config);
        let grace = TaskConfig {
            grace: Duration::MAX,
            ..TaskConfig::default()
        };
        let ends = |stop: tokio_util::sync::CancellationToken| async move {
            stop.cancelled().await;
            Outcome::Ok(())
        };
        supervisor.spawn("ends", grace, ends).unwrap();
        if stop_within < Duration::MAX {
            let stays = |_| pending::<Outcome>();
            supervisor.spawn("stays", grace, stays).unwrap();
        }
        let begun = Instant::now();
        let stopped = supervisor.stop().await;
        assert_eq!(stopped.stuck, 0);
        assert!(begun.elapsed() < Duration::from_secs(1));
    }
}
