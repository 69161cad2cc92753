//! Who is connected and has not proven that it is a member: what it asks of the DHT, and gives it.

use std::time::Duration;

use futures_util::StreamExt as _;
use libp2p::kad;
use libp2p::kad::{GetRecordOk, QueryResult, Quorum, Record, RecordKey};
use libp2p::swarm::SwarmEvent;
use tokio::time::{sleep, timeout};
use vpn_core::{PeerDirectory as _, PeerRecord};
use vpn_p2p::directory::Draft;
use vpn_p2p::directory::kademlia::slot::{Slot, pack};
use vpn_p2p::libp2p::body::{Body, TERMS};
use vpn_p2p::libp2p::key::to_libp2p;
use vpn_p2p::libp2p::{Admission, Certificate, Own};

use super::by_hand::{ByHandEvent, listen, say_hello, swarm};
use super::world::{Member, PATIENCE, address, config, identity, own};

/// Number of whom the test plays.
const NEW: u8 = 15;

fn end() -> u64 {
    vpn_p2p::directory::UnixClock::default().now() + 600
}

fn certificate(n: u8) -> Certificate {
    Certificate::issue(&identity(50), identity(n).id(), end(), &[])
}

/// One of the network of key 50, alone.
async fn member() -> Member {
    let certified = Own {
        certificate: Some(certificate(1)),
        ..own(&[address(1)])
    };
    let config = config(Admission::Network(identity(50).id()), &[]);
    Member::with(1, config, certified).await
}

fn record_of_new(sequence: u64) -> PeerRecord {
    let body = Body {
        certificate: Some(certificate(NEW)),
        ..Body::default()
    };
    let draft = Draft {
        addresses: vec![address(NEW)],
        sequence,
        expires: end(),
        body: body.encode().into(),
    };
    draft.sign(&identity(NEW), &TERMS).unwrap()
}

/// The defect: everybody is connected for ten seconds, and was told names, addresses and endpoints of all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_reads_nothing_of_the_directory() {
    let member = member().await;
    let name = to_libp2p(member.node.id()).unwrap();
    let own = Slot::Peer(member.node.id());
    let known = async {
        // Alone it cannot publish, but has it.
        while !matches!(
            member.directory.resolve(member.node.id()).await,
            Ok(Some(_))
        ) {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, known).await.unwrap();
    let mut stranger = swarm(NEW);
    listen(&mut stranger).await;
    let place = member.node.endpoints().borrow()[0].clone();
    let kad = &mut stranger.behaviour_mut().kad;
    kad.add_address(&name, place);
    let key = RecordKey::from(own.key());
    let asked = kad.get_record(key);
    let over = async {
        loop {
            let event = stranger.next().await;
            let Some(SwarmEvent::Behaviour(ByHandEvent::Kad(event))) = event else {
                continue;
            };
            if let kad::Event::OutboundQueryProgressed {
                id, result, step, ..
            } = event
                && id == asked
            {
                let found = matches!(
                    result,
                    QueryResult::GetRecord(Ok(GetRecordOk::FoundRecord(_)))
                );
                assert!(!found, "a stranger was told");
                if step.last {
                    return;
                }
            }
        }
    };
    timeout(PATIENCE, over)
        .await
        .expect("the question never ended");
    assert!(member.node.status().counters.connections > 0);
    assert_eq!(member.node.status().counters.asked, 0);
}

/// The defect: what a newcomer published before its hello was heard was thrown away, and it was told that
/// it is kept: nobody found it for 20 minutes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_newcomer_gives_before_it_is_known_is_kept_once_it_is() {
    let member = member().await;
    let name = to_libp2p(member.node.id()).unwrap();
    // What it says later is older: it is heard, and kept too.
    let (said, record) = (record_of_new(1), record_of_new(2));
    let mut new = swarm(NEW);
    listen(&mut new).await;
    let mut streams = new.behaviour().streams.new_control();
    new.dial(member.node.addresses()[0].clone()).unwrap();
    while !new.is_connected(&name) {
        new.next().await;
    }
    let value = pack(std::slice::from_ref(&record));
    let value = Record::new(Slot::Peer(record.peer).key(), value);
    let kad = &mut new.behaviour_mut().kad;
    kad.put_record_to(value, [name].into_iter(), Quorum::One);
    tokio::spawn(async move { while new.next().await.is_some() {} });
    // It is long there.
    sleep(Duration::from_secs(1)).await;
    let hello = async {
        while !say_hello(&mut streams, name, &said).await {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, hello).await.expect("nobody listened");
    let kept = async {
        while member.directory.resolve(record.peer).await.ok() != Some(Some(record.clone())) {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, kept).await.expect("it was thrown away");
    assert_eq!(member.node.status().counters.invalid, 0);
}
