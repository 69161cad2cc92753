//! Stopping under load leaves nothing: tasks, threads and descriptors of this process are counted,
//! so this is the only test of its program.
#![cfg(all(feature = "tokio", target_os = "linux"))]
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that tells what it saw"
)]

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use tokio::net::UdpSocket;
use vpn_resilience::supervise::{Supervisor, SupervisorConfig, TaskConfig};

const TASKS: usize = 40;

fn count(what: &str) -> usize {
    std::fs::read_dir(format!("/proc/self/{what}"))
        .unwrap()
        .count()
}

/// A thread that ends with its owner.
struct Helper(Option<(mpsc::Sender<u64>, std::thread::JoinHandle<()>)>);

impl Helper {
    fn new() -> Self {
        let (to, from) = mpsc::channel();
        let run = move || while from.recv().is_ok() {};
        Self(Some((to, std::thread::spawn(run))))
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        if let Some((to, thread)) = self.0.take() {
            drop(to);
            let _ = thread.join();
        }
    }
}

/// Sends to itself without end, with a thread and two sockets; every third one panics now and then,
/// every other third fails; half of them do not listen when they are told to stop.
fn load(supervisor: &Supervisor, number: usize, moved: Arc<AtomicU64>) {
    let work = move |stop: tokio_util::sync::CancellationToken| {
        let moved = moved.clone();
        async move {
            let helper = Helper::new();
            let (one, other) = (
                UdpSocket::bind("127.0.0.1:0").await?,
                UdpSocket::bind("127.0.0.1:0").await?,
            );
            one.connect(other.local_addr()?).await?;
            let mut buffer = [0; 64];
            for round in 1u64.. {
                one.send(&[1; 64]).await?;
                other.recv(&mut buffer).await?;
                moved.fetch_add(1, Relaxed);
                if let Some((to, _)) = &helper.0 {
                    let _ = to.send(round);
                }
                if number.is_multiple_of(2) && stop.is_cancelled() {
                    return Ok(());
                }
                if round.is_multiple_of(100) && number.is_multiple_of(3) {
                    std::panic::resume_unwind(Box::new("on purpose"));
                }
                if round.is_multiple_of(100) && number % 3 == 1 {
                    return Err(std::io::Error::other("on purpose"));
                }
            }
            Ok(())
        }
    };
    supervisor
        .spawn("load", TaskConfig::default(), work)
        .unwrap();
}

#[test]
fn stopping_under_load_leaves_nothing() {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(2).enable_all();
    // What the first runtime of a process makes stays: its end of signals.
    drop(builder.build().unwrap());
    let before = (count("fd"), count("task"));
    let runtime = builder.build().unwrap();
    let idle = runtime.block_on(async {
        tokio::spawn(async {}).await.unwrap();
        (count("fd"), count("task"))
    });
    runtime.block_on(async {
        let supervisor = Supervisor::new(SupervisorConfig::default());
        let moved = Arc::new(AtomicU64::new(0));
        for number in 0..TASKS {
            load(&supervisor, number, moved.clone());
        }
        while moved.load(Relaxed) < 20_000 {
            tokio::task::yield_now().await;
        }
        let busy = (count("fd"), count("task"));
        let begun = Instant::now();
        let stopped = supervisor.stop().await;
        println!(
            "{:?} after {:?}; descriptors and threads {busy:?}, then {:?}, idle {idle:?}; {} messages",
            stopped,
            begun.elapsed(),
            (count("fd"), count("task")),
            moved.load(Relaxed),
        );
        let report = supervisor.report();
        assert!(report.tasks.is_empty());
        assert!(report.counters.panics > 0 && report.counters.failures > 0);
        assert_eq!(stopped.stuck, 0);
        assert!(busy.0 > idle.0 && busy.1 > idle.1, "there was something to leave");
        // A task and a thread are taken out of their lists a moment after their end is told.
        let metrics = tokio::runtime::Handle::current().metrics();
        let left = || (count("fd"), count("task"), metrics.num_alive_tasks());
        let gone = async {
            while left() != (idle.0, idle.1, 0) {
                tokio::task::yield_now().await;
            }
        };
        let gone = tokio::time::timeout(Duration::from_secs(10), gone).await;
        assert!(gone.is_ok(), "{:?} is left, beside {idle:?}", left());
        // None is started again.
        let moved_then = moved.load(Relaxed);
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(moved.load(Relaxed), moved_then);
    });
    drop(runtime);
    assert_eq!(count("fd"), before.0);
}
