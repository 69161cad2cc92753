//! A member that lies: a node of libp2p made by hand, which is on everybody's list, answers questions to
//! the directory with rubbish, and wants rubbish kept.

use std::net::{IpAddr, UdpSocket};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use libp2p::kad::store::RecordStore as _;
use libp2p::kad::{Quorum, Record};
use libp2p::{Multiaddr, StreamProtocol};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use vpn_core::{PeerDirectory as _, PeerRecord};
use vpn_p2p::directory::Draft;
use vpn_p2p::directory::kademlia::slot::{Slot, pack};
use vpn_p2p::libp2p::body::{Body, TERMS};
use vpn_p2p::libp2p::key::to_libp2p;
use vpn_p2p::libp2p::node::Counters;

use super::by_hand::{listen, say_hello, swarm};
use super::world::{Member, PATIENCE, address, identity};

/// Number of the liar.
const LIAR: u8 = 15;

struct Liar {
    /// What it wants others to keep goes in here.
    lies: mpsc::Sender<(Slot, Vec<u8>)>,
    streams: libp2p_stream::Control,
}

impl Liar {
    /// Connected with this member, answering with these values, and telling of a peer that is nobody.
    async fn new(
        victim: &Member,
        answers: Vec<(Slot, Vec<u8>)>,
        nobody: Option<Multiaddr>,
    ) -> Self {
        let mut swarm = swarm(LIAR);
        for (slot, value) in answers {
            let kad = &mut swarm.behaviour_mut().kad;
            kad.store_mut().put(Record::new(slot.key(), value)).unwrap();
        }
        if let Some(place) = nobody {
            let kad = &mut swarm.behaviour_mut().kad;
            kad.add_address(&libp2p::PeerId::random(), place);
        }
        listen(&mut swarm).await;
        swarm.dial(victim.node.addresses()[0].clone()).unwrap();
        let name = to_libp2p(victim.node.id()).unwrap();
        let streams = swarm.behaviour().streams.new_control();
        let (sender, mut lies) = mpsc::channel::<(Slot, Vec<u8>)>(1);
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = swarm.next() => {}
                    lie = lies.recv() => {
                        let Some((slot, value)) = lie else { return };
                        let record = Record::new(slot.key(), value);
                        let kad = &mut swarm.behaviour_mut().kad;
                        kad.put_record_to(record, [name].into_iter(), Quorum::One);
                    }
                }
            }
        });
        let admitted = async {
            while !victim.node.is_admitted(identity(LIAR).id()) {
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(PATIENCE, admitted).await.unwrap();
        Self {
            lies: sender,
            streams,
        }
    }

    /// Wants this kept, and returns what changed at the victim.
    async fn put(&self, victim: &Member, slot: Slot, value: Vec<u8>) -> [u64; 3] {
        let before = counted(victim);
        self.lies.send((slot, value)).await.unwrap();
        let noticed = async {
            while counted(victim) == before {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, noticed).await.expect("it never came");
        let after = counted(victim);
        std::array::from_fn(|at| after[at] - before[at])
    }
}

/// Kept, not believed, nothing new.
fn counted(member: &Member) -> [u64; 3] {
    let Counters {
        kept, invalid, old, ..
    } = member.node.status().counters;
    [kept, invalid, old]
}

fn unix() -> u64 {
    vpn_p2p::directory::UnixClock::default().now()
}

fn record(peer: u8, sequence: u64, claim: IpAddr, lives: u64) -> PeerRecord {
    let draft = Draft {
        addresses: vec![claim],
        sequence,
        expires: unix() + lives,
        body: Body::default().encode().into(),
    };
    draft.sign(&identity(peer), &TERMS).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_replayed_expired_and_rolled_back_records_are_not_kept() {
    const KEPT: [u64; 3] = [1, 0, 0];
    const INVALID: [u64; 3] = [0, 1, 0];
    const OLD: [u64; 3] = [0, 0, 1];
    let victim = Member::new(1, &[]).await;
    let liar = Liar::new(&victim, Vec::new(), None).await;
    let claim = address(5);
    let own = Slot::Peer(identity(5).id());
    let truth = record(5, 10, claim, 600);
    let mut forged = record(5, 11, claim, 600);
    forged.sequence = 12;
    let mut moved = record(5, 11, claim, 600);
    moved.addresses = vec![address(6)];
    let elsewhere: IpAddr = [192, 0, 2, 1].into();
    let of = |record: &PeerRecord| pack(std::slice::from_ref(record));
    for (what, slot, value, becomes) in [
        ("a member's", own, of(&truth), KEPT),
        ("replayed", own, of(&truth), OLD),
        ("rolled back", own, of(&record(5, 9, claim, 900)), OLD),
        ("expired", own, of(&record(5, 11, claim, 0)), INVALID),
        ("for days", own, of(&record(5, 11, claim, 300_000)), INVALID),
        ("forged", own, of(&forged), INVALID),
        (
            "forged claim",
            Slot::Address(address(6)),
            of(&moved),
            INVALID,
        ),
        (
            "a stranger's",
            Slot::Peer(identity(30).id()),
            of(&record(30, 1, claim, 600)),
            INVALID,
        ),
        (
            "another's key",
            Slot::Peer(identity(6).id()),
            of(&truth),
            INVALID,
        ),
        (
            "no claim of its",
            Slot::Address(address(6)),
            of(&truth),
            INVALID,
        ),
        (
            "outside the network",
            Slot::Address(elsewhere),
            of(&record(5, 11, elsewhere, 600)),
            INVALID,
        ),
        ("nonsense", own, vec![0xff; 5000], INVALID),
        ("nothing", own, Vec::new(), INVALID),
    ] {
        assert_eq!(liar.put(&victim, slot, value).await, becomes, "{what}");
    }
    // The older claim of the same peer, under a key that nobody looked at so far.
    let older = record(5, 9, claim, 900);
    let replayed = liar.put(&victim, Slot::Address(claim), of(&older)).await;
    assert_eq!(replayed, OLD);
    let found = victim.directory.resolve(truth.peer).await.unwrap();
    assert_eq!(found, Some(truth));
    // However many it has: what one gives is bounded.
    let flood = async {
        let mut sequence = 11;
        while victim.node.status().counters.too_many == 0 {
            let next = record(5, sequence, claim, 600);
            liar.lies.send((own, of(&next))).await.unwrap();
            sequence += 1;
        }
    };
    timeout(PATIENCE, flood)
        .await
        .expect("it may give for ever");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_answers_with_rubbish_leads_nobody_astray() {
    let honest = Member::new(1, &[]).await;
    let found = Member::new(2, &honest.node.addresses()).await;
    found.is_found_by(&honest).await;
    let (own, absent) = (found.node.id(), identity(6).id());
    let mut forged = record(6, 1, address(6), 600);
    forged.addresses = vec![address(7)];
    let of = |record: &PeerRecord| pack(std::slice::from_ref(record));
    // Older, and valid for longer; what is no record; what its peer did not sign; somebody else's.
    let answers = vec![
        (Slot::Peer(own), of(&record(2, 1, address(9), 3600))),
        (Slot::Address(found.address), vec![0xff; 3000]),
        (Slot::Peer(absent), of(&forged)),
        (Slot::Address(address(7)), of(&forged)),
        (
            Slot::Address(address(8)),
            of(&record(2, 1, address(9), 600)),
        ),
    ];
    let trap = UdpSocket::bind("127.0.0.1:0").unwrap();
    trap.set_nonblocking(true).unwrap();
    let place = format!(
        "/ip4/127.0.0.1/udp/{}/quic-v1",
        trap.local_addr().unwrap().port()
    );
    let asks = Member::new(3, &honest.node.addresses()).await;
    asks.up().await;
    let _liar = Liar::new(&asks, answers, Some(place.parse().unwrap())).await;
    // It is in the table as soon as it said where it listens.
    let rubbish = async {
        while asks.node.status().counters.rubbish == 0 {
            // On a busy machine an answer may not come in time; what comes is never the liar's.
            if let Ok(found) = asks.directory.resolve(absent).await {
                assert_eq!(found, None);
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, rubbish)
        .await
        .expect("the liar was never asked");
    for _ in 0..5 {
        // On a busy machine an answer may not come in time; what comes is never the liar's.
        let record = async {
            loop {
                match asks.directory.resolve(own).await {
                    Ok(Some(record)) => return record,
                    _ => sleep(Duration::from_millis(50)).await,
                }
            }
        };
        let record = timeout(PATIENCE, record).await.expect("it is known");
        assert_eq!(record.addresses, [found.address]);
        let claims = async {
            loop {
                match asks.directory.resolve_address(found.address).await {
                    Ok(claims) if !claims.is_empty() => return claims,
                    _ => sleep(Duration::from_millis(50)).await,
                }
            }
        };
        let claims = timeout(PATIENCE, claims).await.expect("it is claimed");
        assert_eq!(claims.iter().map(|r| r.peer).collect::<Vec<_>>(), [own]);
        for nobodys in [7, 8] {
            let claims = async {
                loop {
                    match asks.directory.resolve_address(address(nobodys)).await {
                        Ok(claims) => return claims,
                        Err(_) => sleep(Duration::from_millis(50)).await,
                    }
                }
            };
            let claims = timeout(PATIENCE, claims).await.expect("it is nobody's");
            assert_eq!(claims, []);
        }
    }
    // Whom the liar told of is no member: nobody knocked there, but the liar, whose own table has it.
    let links = asks.node.status().peers.into_iter();
    let to_liar: Vec<_> = links
        .filter(|(peer, _)| *peer == identity(LIAR).id())
        .flat_map(|(_, links)| links.into_iter().map(|link| link.endpoint.to_string()))
        .collect();
    assert!(!to_liar.is_empty());
    let knocked = loop {
        match trap.recv_from(&mut [0; 2000]) {
            Ok((_, from)) => {
                let from = format!("/ip4/127.0.0.1/udp/{}/", from.port());
                let is_liar = to_liar.iter().any(|place| place.starts_with(&from));
                assert!(is_liar, "{from} knocked");
            }
            Err(none) => break none,
        }
    };
    assert_eq!(knocked.kind(), std::io::ErrorKind::WouldBlock);
}

/// Here it does not lie, but it never says who it is: the directory does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_opens_streams_and_says_nothing_is_asked_about() {
    let member = Member::new(1, &[]).await;
    let mut mute = Liar::new(&member, Vec::new(), None).await;
    let record = record(LIAR, 1, address(LIAR), 600);
    let own = Slot::Peer(record.peer);
    let kept = mute.put(&member, own, pack(std::slice::from_ref(&record)));
    assert_eq!(kept.await, [1, 0, 0]);
    assert!(!member.transport.status().records.contains(&record));
    let name = to_libp2p(member.node.id()).unwrap();
    let protocol = StreamProtocol::new("/vpn/packets/1");
    let stream = mute.streams.open_stream(name, protocol).await.unwrap();
    let known = async {
        while !member.transport.status().records.contains(&record) {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, known).await.expect("nobody was asked");
    drop(stream);
}

/// The defect: each record of a member cost two signatures, a place in the queue of what all say, and questions
/// to the directory, as often as it liked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_says_all_the_time_who_it_is_is_not_listened_to() {
    let member = Member::new(1, &[]).await;
    let mut chatty = Liar::new(&member, Vec::new(), None).await;
    let mut heard = member.node.heard();
    let begun = Instant::now();
    let name = to_libp2p(member.node.id()).unwrap();
    let mut answered = 0;
    for sequence in 1..=200 {
        let said = record(LIAR, sequence, address(LIAR), 600);
        let answer = say_hello(&mut chatty.streams, name, &said);
        answered += u64::from(timeout(PATIENCE, answer).await.unwrap());
    }
    let most = 16 + begun.elapsed().as_secs() + 1;
    let mut told = 0;
    while let Ok(record) = heard.try_recv() {
        told += u64::from(record.peer == identity(LIAR).id());
    }
    assert!(answered > 0 && answered <= told, "{answered} of {told}");
    assert!(told <= most, "{told} of {most}");
}
