//! Networks without a hub: how to start one, tune it, test it, and what to do when it does not work.
//!
//! ```no_run
//! use vpn_core::TunnelTransport;
//! use vpn_p2p::directory::kademlia::KademliaDirectory;
//! use vpn_p2p::identity::Identity;
//! use vpn_p2p::libp2p::{Admission, Libp2pTransport, Libp2pTunnel, Node, NodeConfig, Own};
//!
//! async fn join(members: Admission) -> Result<(), Box<dyn std::error::Error>> {
//!     let identity = Identity::read("laptop.key")?;
//!     let own = Own {
//!         name: "laptop".into(),
//!         addresses: vec!["10.9.0.2/16".parse()?],
//!         ..Own::default()
//!     };
//!     let mut config = NodeConfig::new(members);
//!     config.bootstrap = vec!["/ip4/192.0.2.1/udp/4001/quic-v1/p2p/12D3KooW…".parse()?];
//!     config.inside = vec!["10.9.0.0/16".parse()?];
//!     config.known_peers = Some("known-peers".into());
//!     let node = Node::start(config, &identity)?;
//!     let directory = KademliaDirectory::new(node.clone());
//!     let tunnel = Libp2pTunnel::new(own.addresses.clone());
//!     node.announce(own, identity, directory.clone())?;
//!     // An engine takes it like any other tunnel; here only its state is looked at.
//!     let tunnel = Libp2pTransport::start(node, directory, tunnel)?;
//!     println!("{:?}", tunnel.state().get());
//!     tunnel.close().await;
//!     Ok(())
//! }
//! ```
//!
//! The program `libp2p-node` of the examples is this with a TUN device, a file of TOML and a `status`.
//!
//! # How a packet finds its way
//!
//! 1. Its destination is looked up among the records that are known. If none claims it, the packet waits
//!    (64 packets and 256 KiB per destination, 8 MiB in all, 5 s at most) while the directory is asked.
//! 2. Records that come are believed if they are signed by who they are about, live, and are a member's.
//!    Of several claims of an address the one with the smallest hash of address and key wins, at every node.
//! 3. The peer is dialled at all places its record names, QUIC and TCP and through relays, and the first
//!    connection is used. A relayed one is replaced: both ends punch a hole (DCUtR), new streams go the
//!    direct way, and the relayed connection ends half a second later. Where that fails it is tried again after
//!    40 s, and then less and less often, every ten minutes in the end.
//! 4. Packets go over a pool of streams, each connection of an app in order ([`streams`](crate::streams)).
//!
//! # Who may be a member
//!
//! | | List ([`Admission::Listed`](crate::libp2p::Admission::Listed)) | Network key ([`Admission::Network`](crate::libp2p::Admission::Network)) |
//! |---|---|---|
//! | to let somebody in | add the key at every node | sign one [`Certificate`](crate::libp2p::Certificate) |
//! | a stranger | is not connected | has ten seconds to show a certificate, then a minute's pause |
//! | to put somebody out | take the key off the lists | wait for the certificate's end: there is no list of revoked ones, so make them short |
//!
//! A node behind a list that says which addresses a key may claim, or a certificate that names them,
//! leaves nothing to win: claims of others are not believed. Where networks share members, give each a
//! [name](crate::libp2p::NodeConfig::network): a record of one is not believed in another then.
//!
//! # Tuning
//!
//! The names are those of `libp2p-node`'s `[vpn]` table.
//!
//! | What | Key | Raise it when | Lower it when |
//! |---|---|---|---|
//! | MTU | `mtu` (1400) | hosts move bulk data: streams carry any size, and fewer packets cost less. All members take the largest that any sends | an app behind a member sends datagrams that must pass narrower networks afterwards |
//! | streams | `max_streams_per_peer` (10) | many connections share a lossy network over TCP: a lost segment holds up one stream | peers are many and memory is little: a stream takes a quarter of a megabyte |
//! | buffer | `packet_buffer_size` (100) | `queue_full` is counted while the network has room: bursts are longer than the queue | delay under load matters more than loss |
//! | idle streams | `stream_idle_timeout` (300 s), `cleanup_interval` (60 s) | traffic pauses often, and the first packet after a pause must not wait | many peers are spoken to once |
//! | retries | `retry_initial_interval` (1 s), `retry_max_interval` (30 s), `retry_max_attempts` (5) | peers or the directory are gone for minutes, and many nodes ask | the network is stable, and outages are short |
//! | breaker | `circuit_breaker_failure_threshold` (5), `…_reset_timeout` (60 s), `…_success_threshold` (2) | peers are reached at the second or third attempt: it opens too early | dialling dead peers costs too much |
//!
//! In front of these: QUIC before TCP (a lost segment then holds up one stream, not all), a direct way before a
//! relay (`punched` in `status`), a device with offload (super-packets cross streams whole: one frame of
//! 64 KB costs about forty times one of 1,400 bytes, and holds as many).
//!
//! **TCP in streams.** A VPN over reliable streams retransmits what apps would retransmit themselves.
//! Where packets are lost often, a mesh (`manual::mesh`) or WireGuard carries datagrams as datagrams.
//!
//! # What a node costs
//!
//! | | |
//! |---|---|
//! | connections | 1024 at most, 6 to one peer, with a network key a quarter of them strangers', 16 from one address; one without streams is closed after a minute, and 4 members are kept company with |
//! | a QUIC connection | up to 16 MiB under way, 4 MiB per stream; over TCP Yamux starts at 256 KiB per stream and follows what is taken |
//! | directory | each record at 20 nodes; published when it changes and every 20 minutes, valid for an hour; 65,536 records kept for others |
//! | questions | 64 addresses at a time, 4,096 remembered; "nobody" for 2 s, doubled up to a minute |
//! | relaying (`relay = true`) | 1,024 places, 512 circuits, 4 h and 64 GiB each: libp2p's own bounds (2 minutes, 128 KiB) are for finding each other |
//!
//! `status` shows what the directory took: `queries`, `requests` (messages for them), `unanswered`,
//! `asked` (messages of others), `kept` and `kept_bytes`; `invalid`, `old` and `too_many` count what was refused,
//! `rubbish` answers in which nothing is believed.
//!
//! # Known limits
//!
//! * libp2p makes its own sockets, so they bear no mark: capture the VPN's own networks, as `libp2p-node`
//!   does, and not the default route. Nothing inside [`inside`](crate::libp2p::NodeConfig::inside) is dialled.
//! * Bootstrap nodes are addresses: what is dialled is screened by address. `libp2p-node` looks up those that begin with
//!   `/dns4`, `/dns6` or `/dns` once, at its start; `/dnsaddr` is refused.
//! * When a relayed connection ends for a direct one, what is on its streams and had not arrived is lost,
//!   and counted `stream_lost`.
//! * A stranger of a network with a key can use a relay for the ten seconds it has to prove itself.
//! * Building it needs a C compiler: a library below QUIC brings one of its own cryptography.
//!
//! # Testing
//!
//! | What | How |
//! |---|---|
//! | the pure parts: admission, bodies, addresses, what a DHT keeps | `cargo test -p vpn-p2p --features libp2p --lib -- libp2p kademlia` |
//! | nodes on loopback: first packets, claims, spoofed sources, strangers, a member that lies, a crash, the directory's contract | `cargo test -p vpn-p2p --features libp2p --test libp2p` |
//! | programs in namespaces, and behind NATs (root) | `cargo test -p vpn-examples --features libp2p --test libp2p_node` |
//! | throughput beside bare streams | `cargo bench -p vpn-benches --features libp2p --bench libp2p` |
//! | your own directory or stream | the suites of `vpn_core::testing::conformance`, [`streams::memory`](crate::streams::memory) |
//!
//! To test your own use of it on one machine: listen on `/ip4/127.0.0.1/udp/0/quic-v1`, set
//! [`loopback`](crate::libp2p::NodeConfig::loopback), give [`Node::addresses`](crate::libp2p::Node::addresses)
//! of one node to the others as bootstrap. To see a failure, break something: close the bootstrap node, sign with
//! another key, send from another's address; each has a counter in `status` that has to move.
//!
//! # Troubleshooting
//!
//! | What you see | Why, and what to do |
//! |---|---|
//! | `connecting`, then `down: the peer does not answer` | no bootstrap node is reached: its address, its `/p2p/` name (another key?), UDP *and* TCP blocked; or it does not have us on its list |
//! | `refused` grows at others | strangers, a member that names another network, or a member whose key or certificate is not what they have; certificates end |
//! | drops `no_session` | nobody has the address: not started, not announced (`queries` with `unanswered`?), or its claim lost (`conflicts`) |
//! | drops `address_not_allowed`, `spoofed` | a member sends from what its record does not claim: subnets behind members are not carried |
//! | drops `queue_full` | a member takes less than is sent; see the buffer above |
//! | `path` stays `relay` | both NATs give each destination another port; or nobody said how it is seen: a node needs one bootstrap node outside its NAT |
//! | a node that comes back asks for the bootstrap node | `known_peers` is not set, or its folder cannot be written |
