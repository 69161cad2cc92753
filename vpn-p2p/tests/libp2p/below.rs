//! The network below changes, or is gone for a while.

use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout};
use vpn_core::{NetworkEvent, TransportState, TunnelTransport as _};

use super::world::{Member, PATIENCE};

fn is_down(member: &Member) -> bool {
    matches!(member.transport.state().get(), TransportState::Down(_))
}

/// The defect: it stayed down until the last connection had ended and another one came.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tunnel_that_lost_its_network_is_up_when_its_members_answer() {
    let bootstrap = Member::new(1, &[]).await;
    let one = Member::new(2, &bootstrap.node.addresses()).await;
    one.up().await;
    bootstrap.is_found_by(&one).await;
    one.send(&bootstrap, 1);
    bootstrap.receive().await;
    // With a word that there is a network again, and without.
    for events in [
        &[NetworkEvent::Lost, NetworkEvent::Changed][..],
        &[NetworkEvent::Lost],
    ] {
        for event in events {
            one.transport.network_changed(*event);
            assert!(is_down(&one), "{event}");
        }
        one.up().await;
        let arrives = async {
            loop {
                one.send_from(one.address, bootstrap.address, 2);
                if timeout(Duration::from_millis(200), bootstrap.receive())
                    .await
                    .is_ok()
                {
                    return;
                }
            }
        };
        timeout(PATIENCE, arrives).await.expect("nothing arrives");
    }
    assert!(one.node.is_admitted(bootstrap.node.id()));
}

/// A member that went away without a word while the machine slept is not believed in for as long as a
/// silent connection is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_answer_after_a_change_is_disconnected() {
    let one = Member::new(1, &[]).await;
    let places = one.node.addresses();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let starting = runtime.spawn(async move { Member::new(2, &places).await });
    let other = starting.await.unwrap();
    one.up().await;
    let name = other.node.id();
    runtime.shutdown_background();
    drop(other);
    sleep(Duration::from_millis(100)).await;
    assert!(one.node.is_admitted(name), "it said goodbye");
    let from = Instant::now();
    one.transport.network_changed(NetworkEvent::Woke);
    while one.node.is_admitted(name) {
        assert!(from.elapsed() < Duration::from_secs(10));
        sleep(Duration::from_millis(50)).await;
    }
    println!("disconnected after {:?}", from.elapsed());
}
