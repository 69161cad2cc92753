//! The mesh: how a connection comes to be, how to read its status, what to do when it does not work.
//!
//! ```no_run
//! use std::net::SocketAddr;
//! use std::sync::Arc;
//! use vpn_core::{PeerId, TunnelTransport, Underlay};
//! use vpn_p2p::mesh::{
//!     HubEndpoint, HubId, Identity, LinkConfig, MemberConfig, MeshTransport, NodeConfig,
//! };
//!
//! async fn join(hub: PeerId, underlay: Arc<dyn Underlay>) -> Result<(), Box<dyn std::error::Error>> {
//!     let member = MemberConfig {
//!         name: "laptop".into(),
//!         addresses: vec!["10.77.0.2/24".parse()?],
//!         hubs: vec![LinkConfig::new(hub, HubId(0))],
//!         ..MemberConfig::default()
//!     };
//!     let endpoint = HubEndpoint { host: "hub.example.net".into(), port: 51820 };
//!     let config = NodeConfig::new(member, vec![endpoint]);
//!     let tunnel = MeshTransport::start(config, Identity::read("laptop.key")?, underlay)?;
//!     // An engine takes it like any other tunnel; here only its state is looked at.
//!     println!("{:?}", tunnel.state().get());
//!     for peer in tunnel.status().peers {
//!         println!("{} {} {}", peer.stage.name(), peer.path.loss, peer.path.why);
//!     }
//!     tunnel.close().await;
//!     Ok(())
//! }
//! ```
//!
//! A node is one [`MeshTransport`](crate::mesh::MeshTransport): all of its peers are behind it, so rules,
//! DNS and MTU work for peers as for providers. The example `mesh` of this repository is a daemon made
//! of it.
//!
//! # How a connection comes to be
//!
//! 1. **A node joins its hubs**, all of them at the same time: it says Hello by UDP and, where nothing
//!    answers for a second, by TLS over TCP to the same port. The hub answers with a cookie, with the
//!    address it sees the node at, and with its own signed record, whose key must be the one in the
//!    configuration. Then the node shows its own record and registers inside a WireGuard session.
//! 2. **A packet for an unknown address waits**, and the hubs are asked whose it is. "Nobody" is believed
//!    for 5 s, then for longer, at most for a minute.
//! 3. **The session starts through the relay**: the hub tells the peer of this node's record, sealed, and the
//!    handshake follows at once, and the packets that waited go by the relay. So the first packet is not lost,
//!    whatever the networks on both sides do.
//! 4. **Then all direct ways are tried**, by challenges sealed in the session: every address of the
//!    peer's record, and every one that an authentic datagram came from. Both sides do so at once,
//!    which opens NATs that map each socket to one port. A way carries packets once its challenge came
//!    back: no label like "symmetric NAT" decides, the answer does.
//! 5. **The relay stays.** The way in use is probed while packets go by it. When it dies, packets go by
//!    the relay within two seconds, and back when a direct way has answered again.
//!
//! | Networks of the two | Path |
//! |---|---|
//! | both public, or one public and one behind any NAT that lets UDP pass | direct |
//! | both behind NATs with one port per socket (most home routers) | direct |
//! | one behind such a NAT, one behind a NAT with a port per destination ("symmetric") | relay |
//! | both behind NATs with a port per destination | relay |
//! | any of the above, both with IPv6 behind firewalls that let answers pass | direct, by IPv6 |
//! | one where UDP is blocked | relay, over TLS on that one's side |
//!
//! # What status says
//!
//! Of each hub, its `state`:
//!
//! | State | Meaning |
//! |---|---|
//! | `idle` | its name has not been resolved, or there is nothing to ask yet |
//! | `greeting` | Hellos are out, nothing came back |
//! | `joining` | it answered; handshake and registration are under way |
//! | `up` | registered |
//! | `waiting` | it did not work: `why` says what, and the next round comes after 2, 4, 8, 16, 32 s |
//!
//! Of each peer, its `path`: `direct` (and `endpoint` says where), `relay` (by a hub, by UDP),
//! `relay-tcp` (by a hub, and we reach the hub by TLS), or `none`: packets wait or are dropped. Each side
//! says what *it* sends by. The two may differ: where only one direction of the direct way works, one
//! side says `direct` and the other `relay`, and both are right.
//!
//! `rtt_ms` is the smoothed round trip of that way, `loss` the part of its last 32 probes that stayed
//! unanswered, `since` how long packets go by it, and `why` the reason
//! ([`Why`](crate::mesh::Why)):
//!
//! | `why` | Meaning, and what to do |
//! |---|---|
//! | nothing is known of the peer yet | no hub has told of it: is it up, and is its key on the hub's list? |
//! | direct ways were not tried yet | nobody has sent a packet since the session began, or it began this instant |
//! | direct ways are being tried | look again in two seconds |
//! | its challenge was answered | the usual state of a direct path |
//! | faster or nearer than the way before | there were two direct ways; local networks and IPv6 come first |
//! | the way before did not answer | its NAT forgot it, an address changed, or the network between is cut |
//! | the peer told of no address to try | it is told to be relayed only, or knows none: see `relay-only` below |
//! | no direct way answered | NATs with a port per destination, or a firewall: forward a port on one side, or have IPv6 |
//! | the direct way failed too often lately | it answers again, and is taken after a pause that grows to a minute |
//! | the relay before lost the peer | another hub relays now |
//! | the session ended | the peer was restarted or is gone; attempts go on for as long as packets want it |
//! | the policy wants it so | `relay-only`, `direct-only` or `deny` is configured for it |
//!
//! # Ports and firewalls
//!
//! A **hub** needs one port, UDP and TCP alike, reachable from everywhere. Where it is behind a NAT,
//! forward both. It needs no other one, and no kernel module.
//!
//! A **node** needs nothing but UDP outwards to any port, and answers to it; failing that, TCP outwards
//! to the hub's port. If only some ports are open outwards, let the hub listen on one of them: 443 is
//! open nearly everywhere. To make a node reachable directly for everybody, forward a UDP port to it, set
//! its port to that, and name the public address among the
//! [candidates](crate::mesh::NodeConfig::candidates).
//!
//! What keeps a mapping open is an empty message per 34 s and direction on each path that is in use,
//! where nothing else was sent. A NAT that forgets UDP sooner costs one probe by the relay when packets
//! flow again; it loses none.
//!
//! # Policies
//!
//! | Policy | Effect |
//! |---|---|
//! | `allow` | directly where that works, relayed where not. The default |
//! | `direct-only` | the relay carries handshake and challenges, but no packet: without a direct way they are dropped |
//! | `relay-only` | its addresses are not tried, and what comes from it directly is dropped. As the policy for all peers, our own addresses are left out of the record, so nobody learns them |
//! | `deny` | no session with it |
//!
//! Networks behind a peer are believed where this node's configuration names them for that peer, and the
//! hub's list names them too. What nobody named is a claim, and nothing comes of it.
//!
//! # Hubs in a line
//!
//! Members of different hubs reach each other where the hubs are *neighbours*: each lists the other's key
//! ([`HubConfig::neighbours`](crate::mesh::HubConfig::neighbours)), and one of the two has the other's
//! endpoint. It joins there by UDP as members join, and comes back as they do; a hub behind a NAT can be the
//! one that joins.
//!
//! ```text
//!  a ── hub 1 ── hub 2 ── b      3 hops: max_hops = 3, the default
//!  a ── hub 1 ── hub 2 ── hub 3 ── b      4 hops: max_hops = 4, at all three
//! ```
//!
//! A hub asks its neighbours for who is not connected to it, and tells them whom its members introduce
//! themselves to. So the two members know each other's records, and try direct ways as if they shared a
//! hub; what has no direct way is relayed over the line. **A hop** is one step of a relayed datagram, from
//! member to hub, hub to hub, or hub to member. Each hub counts by itself and allows no more than its own
//! [`max_hops`](crate::mesh::HubConfig::max_hops), so the least one of a line decides. A datagram never goes
//! back to where it came from, and a question says at which hubs it was: a ring is no harm.
//!
//! * **Trust**: a neighbour is believed in who its members are, so it can give an address that nobody has
//!   here to a key of its choice. It cannot take what a member here has or the list pins, cannot forge a
//!   record, and reads nothing: sessions are from member to member.
//! * **Members** need no setting. An address is to be given once in all hubs: where two give it out, each
//!   hub's members reach their own, and others whom they found first.
//! * **Exits**: a hub with neighbours, and a member that has a network around the mesh behind it, such as
//!   0.0.0.0/0, is to list the mesh in [`networks`](crate::mesh::HubConfig::networks). Otherwise it takes
//!   addresses of other hubs' members for the exit's, and its own members reach nobody there.
//! * **Isolation** ends at the hub: with `isolation` only members with `reaches_all` reach members of
//!   other hubs, and are reached by them.
//! * **Changes**: a new record is told to hubs that asked, and by them to their members. That somebody is
//!   gone is noticed with the next datagram for it; a hub remembers where somebody is for 15 minutes after
//!   the last one.
//! * **Limits** of a neighbour are in [`NeighbourLimits`](crate::mesh::hub::NeighbourLimits): 2 Gbit/s,
//!   1000 messages and 1000 questions a second. What one member sends is limited by its own hub, which asks
//!   its neighbours ten questions a second for it.
//! * **Status** of the hub: each neighbour with its endpoint, how many members are known behind it, and
//!   why it is away. `no_hops` counts what was too far, `looped` what came round: both are 0 in a line that
//!   is configured right.
//! * Between hubs there is UDP only: it must be open between them.
//!
//! # Tuning
//!
//! * **MTU**: 1400 bytes inside, on every way, so that a packet that fits one fits all: 1500 less 48
//!   (IPv6 and UDP), 20 (between two hubs), 32 (WireGuard). Where the system knows a way in use to be narrower, the
//!   tunnel is as well; where a network is narrower than the system knows, lower it.
//! * **Times** of paths are in [`PathConfig`](crate::mesh::PathConfig), those of hubs in
//!   [`LinkTimes`](crate::mesh::LinkTimes), each with its reason. Probing more often than once per second
//!   finds a dead way sooner and costs battery; a longer keepalive costs mappings.
//! * **Several hubs**: up to four, preferred first. All are joined; a peer is relayed by the first that both
//!   are at and that answers. Two hubs in two places, and no one of them is missed.
//! * **A hub's limits** ([`Limits`](crate::mesh::hub::Limits)) are per member: 1 Gbit/s relayed, 100
//!   control messages a second. A hub that relays much wants a fast core: it copies, it does not decrypt.
//!
//! # Metrics
//!
//! Families `vpn_mesh_*` of a member and `vpn_hub_*` of a hub are in `METRICS.md` of vpn-core. Worth an alarm:
//! `vpn_mesh_hub_up` 0 at all hubs of a node; `vpn_mesh_retries_total` that grows steadily (a peer that is wanted and
//! does not answer); `vpn_mesh_fallbacks_total` that grows each minute (a direct way that comes and goes);
//! `vpn_mesh_conflicts_total` (two claim one address). The part of `vpn_mesh_packets_total` by `path` says what
//! the relays carry.
//!
//! # Troubleshooting
//!
//! | What you see | Why, and what to do |
//! |---|---|
//! | hub `waiting`, nothing answers | wrong address or port, hub not running, or a firewall: `listen` in the hub's file, and `ss -lunt` there, say where it listens |
//! | hub `waiting`, another key | the configuration has another hub's public key, or somebody is in between: compare with `mesh pubkey` on the hub |
//! | hub `waiting`, the hub does not know this key | add the node's public key to the hub's `[[members]]`, or give it the token |
//! | hub `waiting`, the address is not this member's to use | another member has it, or the hub's list gives this key another one. First come, first served, but the list wins |
//! | hub `waiting`, a newer record is known | two machines run with one key, or this one's clock is behind. Each node needs a key of its own |
//! | hub `waiting`, the hub is full | `max_members` of the hub |
//! | hub up by `tls` though UDP should pass | UDP to the hub's port is dropped somewhere; it is tried again every minute, and at once when the network changes |
//! | path `relay`, and direct was expected | read `why`; see the table of networks above. A node whose hub sees it at another port than the next hub does is behind a NAT with a port per destination |
//! | path `relay` between two machines of one LAN | the LAN keeps its stations apart ("client isolation"), or a firewall on one of them drops UDP from the LAN |
//! | path changes every minute | a way that answers and dies, as of an overloaded line: `loss` says. It is held back longer each time |
//! | `none`, and the peer is up | it is at no hub of ours, the hub isolates members, or one side's policy denies the other |
//! | drops `no_session` | the peer did not come within 5 s, or nobody has that address |
//! | drops `hold_full` | more than 64 packets or 256 KiB waited for one peer that was not connected yet |
//! | drops `address_not_allowed` | the peer sent from an address that is neither its own nor of a network admitted behind it |
//! | drops `not_authentic` | noise, replays, or a stranger on the port: counted, nothing else |
//! | drops `too_big` | larger than the MTU: see Tuning |
//! | a conflict in status | two peers claim one address: who had it keeps it; the other is named |
//! | ping works, connections hang | something below is narrower than it says: lower the MTU |
//! | everything hangs for a few seconds after waking from sleep | the node was told late that the network changed: give it the events of [the network below](vpn_core::NetworkEvent) |
//!
//! # Who can do what
//!
//! A **hub** is trusted to be there, and with who talks to whom. It sees which nodes are members, their
//! virtual and their public addresses, when they talk with each other and, as long as they are relayed,
//! how much. It can refuse, delay and drop. It cannot read or change what members send each other: that
//! is sealed between them. It cannot be another member: records are signed with the members' own keys.
//! It can say of an address which member has it, so a hub that lies can give an address to another member
//! *of its own making*, unless the configuration pins the address to a key (`[[peers]]`). Pin what must not be
//! anybody else. Over TLS its key is pinned as well: no certificate authority is asked.
//!
//! A **member** can send to whoever it can reach, from its own addresses and admitted networks only. It
//! cannot take another's address: the hub refuses it, and members who know the address keep its owner.
//! It learns the public address of whoever it connects to, unless `relay-only` is set. What may begin
//! towards this node is for its inbound rules to say; a mesh is a network, not a permission.
//!
//! A **stranger** gets from a hub, for a question, an answer that is not longer, and no state: not
//! before its address is proven by a cookie, and not without a key or the token after that. From a node
//! it gets nothing. Flooding costs the hub a code over an address for each datagram, and is limited where it
//! costs more. Replayed, changed and forged messages are dropped and counted.
//!
//! Who **gets a node's key** is that node until the hub's list says otherwise; what was sent before stays
//! sealed, for sessions have keys of their own.
//!
//! # Keys, and changing them
//!
//! | Key | Lives | How it changes |
//! |---|---|---|
//! | packet keys | two minutes of use | by itself: a new handshake, while the old keys still open what is under way |
//! | session key of a node | until it is restarted | at each start; the new signed record has a larger number and replaces the old one everywhere |
//! | a node's identity | until you change it | below |
//! | a hub's identity | until you change it | below |
//! | the token | until you change it | registered members stay; who comes anew needs the new one |
//!
//! *A node's identity*: `mesh keygen`, put the new public key in place of the old one in the hub's list,
//! restart the hub (direct paths live on, relayed ones pause for a second), restart the node. Two keys
//! cannot have one address, so there is no time when both are good. Pins of the old key in other nodes'
//! `[[peers]]` have to follow.
//!
//! *A hub's identity*: start a second hub with the new key, add it to the nodes as a second
//! `[[hubs]]`, then take the old one away. Nothing is interrupted.
//!
//! *A lost key*: take it off the hub's list and send the hub SIGHUP. Its record is not renewed and ends within
//! two hours; nodes that are connected to it directly let it go after ten idle minutes, or at once
//! with `policy = "deny"` for that key.
