//! Watches a peer on tokio: asks when it is time, and tells what changed.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;
use tokio::time::sleep_until;

use super::{HealthConfig, HealthStatus, Life, Monitor, Question};

/// A [`Monitor`] with a clock. Whoever reads says what was heard; one task [runs](Self::run) it.
///
/// ```
/// use std::time::Duration;
/// use vpn_resilience::{HealthConfig, Life};
/// use vpn_resilience::health::Watch;
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// let watch = Watch::new(HealthConfig::default());
/// let (asked, told) = tokio::sync::mpsc::unbounded_channel();
/// let ask = |question| {
///     let _ = asked.send(question); // sends a message to the peer
/// };
/// let mut seen = Vec::new();
/// let run = watch.run(ask, |life| seen.push(life));
/// let _ = tokio::time::timeout(Duration::from_secs(100), run).await;
/// assert_eq!(seen, [Life::Dead]);
/// assert!(told.len() > 3);
/// # }
/// ```
#[derive(Debug)]
pub struct Watch {
    monitor: Mutex<Monitor>,
    /// Woken when its life changed by a sign of life.
    news: Notify,
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

impl Watch {
    /// Watches a peer from now on.
    pub fn new(config: HealthConfig) -> Self {
        Self {
            monitor: Mutex::new(Monitor::new(config, now())),
            news: Notify::new(),
        }
    }

    /// Something authentic came from it. Once per batch of packets is enough.
    pub fn heard(&self) {
        self.sign(|monitor| monitor.heard(now()));
    }

    /// It answered a question.
    pub fn answered(&self, question: Question) {
        self.sign(|monitor| monitor.answered(question, now()));
    }

    /// All there is to report of it.
    pub fn status(&self) -> HealthStatus {
        self.lock().status()
    }

    /// Asks, and tells each change of its life, until it is dropped. Run it once at a time; it can be
    /// dropped and run again. Neither function may wait: a message that finds no room is lost, like
    /// others.
    pub async fn run(&self, mut ask: impl FnMut(Question), mut told: impl FnMut(Life)) {
        loop {
            let (question, event, next) = {
                let mut monitor = self.lock();
                monitor.handle_timeout(now());
                (
                    monitor.poll_question(),
                    monitor.poll_event(),
                    monitor.next_timeout(),
                )
            };
            if let Some((life, _)) = event {
                told(life);
            }
            if let Some(question) = question {
                ask(question);
            }
            if event.is_some() || question.is_some() {
                continue;
            }
            tokio::select! {
                biased;
                () = self.news.notified() => {}
                () = sleep_until(next.into()) => {}
            }
        }
    }

    fn sign(&self, sign: impl FnOnce(&mut Monitor)) {
        let mut monitor = self.lock();
        let before = monitor.life();
        sign(&mut monitor);
        if monitor.life() != before {
            self.news.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Monitor> {
        self.monitor.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::time::{sleep, timeout};

    /// A peer that answers until it dies, and again when it is back: told in time, on tokio's clock.
    #[tokio::test(start_paused = true)]
    async fn deaths_and_recoveries_are_told_in_time() {
        let config = HealthConfig {
            keepalive: Duration::from_secs(10),
            ..HealthConfig::default()
        };
        let watch = Watch::new(config);
        let begun = tokio::time::Instant::now();
        let (to, mut asked) = tokio::sync::mpsc::unbounded_channel();
        let dead = 100..200;
        let peer = async {
            while let Some(question) = asked.recv().await {
                sleep(Duration::from_millis(80)).await;
                if !dead.contains(&begun.elapsed().as_secs()) {
                    watch.answered(question);
                }
            }
        };
        let told = Mutex::new(Vec::new());
        let run = watch.run(
            |question| {
                let _ = to.send(question);
            },
            |life| told.lock().unwrap().push((life, begun.elapsed())),
        );
        let both = async { tokio::join!(run, peer) };
        assert!(timeout(Duration::from_secs(300), both).await.is_err());
        let told = told.into_inner().unwrap();
        let at = |life: Life, from: u64| {
            let from = Duration::from_secs(from);
            let is = |(l, at): &&(Life, Duration)| *l == life && *at >= from;
            told.iter().find(is).map(|(_, at)| *at - from).unwrap()
        };
        assert!(at(Life::Dead, 100) <= Duration::from_secs(30));
        assert!(at(Life::Alive, 200) <= Duration::from_millis(10_080));
        assert_eq!(
            told.iter().filter(|(life, _)| *life == Life::Dead).count(),
            1
        );
    }
}
