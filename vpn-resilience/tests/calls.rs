//! Policies around calls, on virtual time.
#![cfg(feature = "tokio")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::future::pending;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use vpn_resilience::call::{
    CallError, Plain, Policy, WithBreaker, WithBulkhead, WithRate, WithRetry, WithTimeout,
};
use vpn_resilience::*;

/// What is called: fails as long as it is told to, and counts.
#[derive(Debug, Default)]
struct Server {
    asked: AtomicU32,
    failures: AtomicU32,
}

impl Server {
    fn failing(times: u32) -> Self {
        Self {
            failures: times.into(),
            ..Self::default()
        }
    }

    async fn answer(&self) -> io::Result<u32> {
        let asked = self.asked.fetch_add(1, SeqCst);
        if asked < self.failures.load(SeqCst) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(asked)
    }

    fn asked(&self) -> u32 {
        self.asked.load(SeqCst)
    }
}

type Of = fn(&io::Error) -> Fault;

fn retry() -> WithRetry<Of> {
    WithRetry::new(RetryConfig::default(), 7, Fault::of_io)
}

fn breaker() -> WithBreaker<Of> {
    WithBreaker::new(BreakerConfig::default(), Fault::of_io)
}

#[tokio::test(start_paused = true)]
async fn a_call_is_made_again_until_it_succeeds() {
    let (server, policy) = (Server::failing(3), retry());
    assert_eq!(policy.run(|| server.answer()).await.unwrap(), 3);
    let counters = policy.counters();
    assert_eq!((counters.attempts, counters.succeeded), (4, 1));
}

/// Regression S-3: attempts that are reported are those that were made.
#[tokio::test(start_paused = true)]
async fn s3_it_gives_up_and_says_after_how_many_attempts() {
    let (server, policy) = (Server::failing(u32::MAX), retry());
    let error = policy.run(|| server.answer()).await.unwrap_err();
    let CallError::GaveUp { reason, last } = error else {
        panic!("{error}")
    };
    assert_eq!((reason.attempts(), server.asked()), (5, 5));
    assert_eq!(policy.counters().attempts, 5);
    assert_eq!(last.into_failure().unwrap().kind(), io::ErrorKind::TimedOut);
}

#[tokio::test(start_paused = true)]
async fn what_another_attempt_cannot_help_fails_at_once() {
    let policy = retry();
    let denied = || async { Err::<(), _>(io::Error::from(io::ErrorKind::PermissionDenied)) };
    let error = policy.run(denied).await.unwrap_err();
    assert!(matches!(error, CallError::Failed(_)), "{error}");
    assert_eq!(policy.counters().attempts, 1);
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_hangs_costs_one_attempt() {
    let (server, policy, begun) = (Server::default(), retry(), Instant::now());
    let work = || async {
        if server.answer().await? == 0 {
            pending::<()>().await;
        }
        Ok(())
    };
    policy.run(work).await.unwrap();
    assert_eq!(policy.counters().timed_out, 1);
    assert!(begun.elapsed() <= Duration::from_secs(11));
}

/// Cancelled while an attempt hangs, and in every pause: it ends at once, and is counted.
#[tokio::test(start_paused = true)]
async fn it_stops_at_once_when_it_is_cancelled() {
    for after in (0..400).map(|i| Duration::from_millis(i * 100)) {
        for by_token in [true, false] {
            let stop = CancellationToken::new();
            let (server, policy) = (Server::default(), retry().until(stop.clone()));
            let work = || async {
                let asked = server.answer().await?;
                if asked % 2 == 1 {
                    pending::<()>().await;
                }
                Err::<(), _>(io::ErrorKind::TimedOut.into())
            };
            let (call, ended) = (policy.run(work), Instant::now() + after);
            if by_token {
                let cancel = async {
                    sleep(after).await;
                    stop.cancel();
                };
                let (result, ()) = tokio::join!(call, cancel);
                match result {
                    Err(CallError::Stopped { attempts }) => {
                        assert_eq!(attempts, server.asked());
                        assert!(ended.elapsed() < Duration::from_millis(100));
                        assert_eq!(policy.counters().cancelled, 1);
                    }
                    Err(CallError::GaveUp { .. }) => {
                        assert!(after > Duration::from_secs(30), "{after:?}");
                    }
                    other => panic!("{other:?}"),
                }
            } else if timeout(after, call).await.is_err() {
                assert!(ended.elapsed() < Duration::from_millis(100));
                assert_eq!(policy.counters().cancelled, 1);
            }
            let c = policy.counters();
            assert_eq!(c.calls, c.succeeded + c.failed + c.cancelled);
            assert_eq!(c.attempts, u64::from(server.asked()));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_breaker_fails_at_once_and_lets_probes_through_later() {
    let (server, policy) = (Server::failing(5), breaker());
    for _ in 0..5 {
        policy.run(|| server.answer()).await.unwrap_err();
    }
    let error = policy.run(|| server.answer()).await.unwrap_err();
    assert!(matches!(error, CallError::Open(_)), "{error}");
    assert_eq!(server.asked(), 5);
    sleep(Duration::from_secs(60)).await;
    for _ in 0..2 {
        policy.run(|| server.answer()).await.unwrap();
    }
    assert_eq!(policy.status().state, BreakerState::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_permit_comes_back_from_a_call_that_nobody_waits_for() {
    let (server, policy) = (Server::failing(5), breaker());
    for _ in 0..5 {
        policy.run(|| server.answer()).await.unwrap_err();
    }
    sleep(Duration::from_secs(60)).await;
    for _ in 0..3 {
        let hangs = policy.run(pending::<io::Result<()>>);
        assert!(timeout(Duration::from_secs(1), hangs).await.is_err());
    }
    assert!(policy.run(|| server.answer()).await.is_ok());
    assert_eq!(policy.status().counters.cancelled, 3);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_says_no_is_a_success_to_a_breaker() {
    let policy = WithBreaker::new(BreakerConfig::default(), |_: &u8| Fault::Answered);
    for _ in 0..100 {
        policy
            .run(|| async { Err::<(), _>(0u8) })
            .await
            .unwrap_err();
    }
    assert_eq!(policy.status().state, BreakerState::Closed);
}

#[tokio::test(start_paused = true)]
async fn retry_outside_and_breaker_inside_open_within_one_call() {
    let server = Server::failing(u32::MAX);
    let policy = retry().around(breaker());
    policy.run(|| server.answer()).await.unwrap_err();
    assert_eq!(
        (server.asked(), policy.inside().status().transitions.opened),
        (5, 1)
    );
    let error = policy.run(|| server.answer()).await.unwrap_err();
    assert!(
        matches!(error, CallError::Open(_)),
        "not tried again: {error}"
    );
    assert_eq!(
        (server.asked(), policy.outside().counters().attempts),
        (5, 6)
    );
}

#[tokio::test(start_paused = true)]
async fn breaker_outside_and_retry_inside_open_after_five_calls() {
    let server = Server::failing(u32::MAX);
    let policy = breaker().around(retry());
    for _ in 0..5 {
        assert_eq!(policy.outside().status().transitions.opened, 0);
        policy.run(|| server.answer()).await.unwrap_err();
    }
    assert_eq!(
        (server.asked(), policy.outside().status().transitions.opened),
        (25, 1)
    );
    let error = policy.run(|| server.answer()).await.unwrap_err();
    assert!(matches!(error, CallError::Open(_)), "{error}");
    assert_eq!(policy.inside().counters().calls, 5);
}

#[tokio::test(start_paused = true)]
async fn a_time_limit_inside_costs_an_attempt_and_outside_the_call() {
    let limit = || WithTimeout::new(TimeoutConfig::fixed(Duration::from_secs(2)));
    let inside = retry().around(limit());
    let error = inside.run(pending::<io::Result<()>>).await.unwrap_err();
    assert!(matches!(error, CallError::GaveUp { .. }), "{error}");
    assert_eq!(inside.inside().counters().expired, 5);
    let (outside, begun) = (limit().around(retry()), Instant::now());
    let error = outside.run(pending::<io::Result<()>>).await.unwrap_err();
    assert!(matches!(error, CallError::TimedOut { .. }), "{error}");
    assert_eq!(begun.elapsed(), Duration::from_secs(2));
    assert_eq!(outside.inside().counters().cancelled, 1);
}

#[tokio::test(start_paused = true)]
async fn a_breaker_opens_for_what_hangs_only_around_the_time_limit() {
    let limit = || WithTimeout::new(TimeoutConfig::fixed(Duration::from_secs(2)));
    let (around, within) = (breaker().around(limit()), limit().around(breaker()));
    for _ in 0..5 {
        around.run(pending::<io::Result<()>>).await.unwrap_err();
        within.run(pending::<io::Result<()>>).await.unwrap_err();
    }
    assert_eq!(around.outside().status().transitions.opened, 1);
    assert_eq!(within.inside().status().transitions.opened, 0);
}

#[tokio::test(start_paused = true)]
async fn a_rate_inside_counts_attempts_and_outside_calls() {
    let rate = || {
        WithRate::new(RateConfig {
            per_second: 1,
            burst: 3,
        })
    };
    let server = Server::failing(2);
    let inside = retry().around(rate());
    inside.run(|| server.answer()).await.unwrap();
    assert_eq!(inside.inside().counters().tokens, 3);
    let server = Server::failing(2);
    let outside = rate().around(retry());
    outside.run(|| server.answer()).await.unwrap();
    assert_eq!(outside.outside().counters().tokens, 1);
}

#[tokio::test(start_paused = true)]
async fn a_rate_that_is_waited_for_is_kept_to() {
    let config = RateConfig {
        per_second: 10,
        burst: 1,
    };
    let policy = WithRate::new(config).patience(Duration::from_secs(1));
    let (policy, server) = (Arc::new(policy), Arc::new(Server::default()));
    let begun = Instant::now();
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let (policy, server) = (policy.clone(), server.clone());
        calls.spawn(async move { policy.run(|| server.answer()).await.is_ok() });
    }
    let made = calls
        .join_all()
        .await
        .into_iter()
        .filter(|made| *made)
        .count();
    assert_eq!((made, server.asked()), (11, 11));
    assert_eq!(begun.elapsed(), Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn so_many_at_the_same_time_and_the_rest_is_told_at_once() {
    let config = BulkheadConfig {
        most: 2,
        waiting: 3,
        patience: Duration::from_millis(250),
    };
    let policy = Arc::new(WithBulkhead::new(config));
    let (now, peak) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..10 {
        let (policy, now, peak) = (policy.clone(), now.clone(), peak.clone());
        calls.spawn(async move {
            let work = || async {
                peak.fetch_max(now.fetch_add(1, SeqCst) + 1, SeqCst);
                sleep(Duration::from_millis(200)).await;
                now.fetch_sub(1, SeqCst);
                io::Result::Ok(())
            };
            policy.run(work).await
        });
    }
    let ends = calls.join_all().await;
    let count = |shed| {
        let is =
            |end: &&Result<(), CallError<_>>| matches!(end, Err(CallError::Shed(s)) if *s == shed);
        ends.iter().filter(is).count()
    };
    // Two at once, two after 200 ms, and one whose turn would come after 400 ms.
    assert_eq!(ends.iter().filter(|end| end.is_ok()).count(), 4);
    assert_eq!((count(Shed::Full), count(Shed::TooLate)), (5, 1));
    assert_eq!(peak.load(SeqCst), 2);
    let status = policy.status();
    assert_eq!((status.working, status.waiting), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn who_goes_away_gives_its_place_to_the_next() {
    let config = BulkheadConfig {
        most: 1,
        ..BulkheadConfig::default()
    };
    let policy = WithBulkhead::new(config);
    let hangs = timeout(
        Duration::from_millis(500),
        policy.run(pending::<io::Result<()>>),
    );
    let leaves = timeout(
        Duration::from_millis(100),
        policy.run(pending::<io::Result<()>>),
    );
    let works = policy.run(|| async { io::Result::Ok(()) });
    let (hangs, leaves, works) = tokio::join!(hangs, leaves, works);
    assert!(hangs.is_err() && leaves.is_err() && works.is_ok());
    let status = policy.status();
    assert_eq!(
        (status.working, status.waiting, status.counters.gone),
        (0, 0, 1)
    );
}

/// Our overload says nothing about the other end.
#[tokio::test(start_paused = true)]
async fn a_breaker_around_a_bulkhead_stays_closed_under_overload() {
    let bulkhead = WithBulkhead::new(BulkheadConfig {
        most: 1,
        waiting: 0,
        ..BulkheadConfig::default()
    });
    let policy = breaker().around(bulkhead);
    let holds = policy.run(|| async {
        sleep(Duration::from_secs(1)).await;
        io::Result::Ok(())
    });
    let others = async {
        for _ in 0..50 {
            let error = policy
                .run(|| async { io::Result::Ok(()) })
                .await
                .unwrap_err();
            assert!(matches!(error, CallError::Shed(Shed::Full)), "{error}");
        }
    };
    let (held, ()) = tokio::join!(holds, others);
    held.unwrap();
    let status = policy.outside().status();
    assert_eq!(
        (status.transitions.opened, status.counters.cancelled),
        (0, 50)
    );
}

#[tokio::test(start_paused = true)]
async fn no_policy_is_one_attempt() {
    let server = Server::failing(1);
    assert!(Plain.run(|| server.answer()).await.is_err());
    assert_eq!(server.asked(), 1);
}

/// What is refused until later than the call may take is not asked then: the call has ended.
#[tokio::test(start_paused = true)]
async fn no_attempt_begins_after_all_the_time_of_its_call() {
    let config = RetryConfig {
        max_elapsed: Some(Duration::from_secs(5)),
        ..RetryConfig::default()
    };
    let answer = async || Ok::<_, io::Error>(7);
    let policy = WithRetry::new(config, 7, Fault::of_io as Of).around(Far);
    let begun = Instant::now();
    let error = policy.run(answer).await.unwrap_err();
    assert!(matches!(error, CallError::GaveUp { .. }), "{error}");
    assert!(
        begun.elapsed() <= Duration::from_secs(5),
        "{:?}",
        begun.elapsed()
    );
    let counters = policy.outside().counters();
    assert_eq!((counters.attempts, counters.failed), (1, 1));
}

/// Refuses for a minute.
#[derive(Debug)]
struct Far;

impl Policy<io::Error> for Far {
    fn call<'a, T: Send + 'a>(
        &'a self,
        _: vpn_resilience::call::Operation<'a, T, io::Error>,
    ) -> vpn_resilience::call::Call<'a, T, io::Error> {
        Box::pin(async {
            let retry_at = (Instant::now() + Duration::from_secs(60)).into_std();
            Err(CallError::Limited(Limited { retry_at }))
        })
    }
}
