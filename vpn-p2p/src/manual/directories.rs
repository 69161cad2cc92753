//! Directories: which one for what, what each promises, records, addresses, TLS and passwords.
//!
//! A directory answers two questions: where is this peer, and whose is this address. What it says is a
//! *record*, signed by the peer it is about; so a directory can be away, be late or leave somebody out, but
//! cannot speak for anybody. [`directory`](crate::directory) has the parts; the example `libp2p-node` uses
//! two of them.
//!
//! # Which one
//!
//! | | Take it when | It promises | It does not |
//! |---|---|---|---|
//! | [`StaticDirectory`](crate::directory::StaticDirectory) | a handful of nodes whose places are known, or what is known has to outlive everything else | always answers; read again when it is told to | learn anything: somebody writes the file |
//! | [`MemoryDirectory`](crate::directory::MemoryDirectory) | tests; a program that hears of peers in a way of its own | takes newer valid records only | outlive the process |
//! | `KademliaDirectory` (feature `libp2p`) | no place may have to be there: members keep the records themselves | finds who published within the last hour, also after any node died; two who claim one address are both shown, and one of them wins everywhere | decide who *gets* an address, or say "nobody" for certain; hand an address on before its dead holder's record ends, an hour later |
//! | `EtcdDirectory` (feature `etcd`) | there is an etcd, or addresses have to be given out | an address is one node's at a time; every node has a copy, so lookups ask nobody and go on while etcd is away; a change is everywhere within milliseconds | start a new node without etcd |
//! | [`ChainDirectory`](crate::directory::ChainDirectory) | several of these at once | asks all, each within its budget; the newest valid answer counts; "nobody" only if all who answer say so | make two of them agree whose an address is: of several claims the smaller hash wins |
//! | [`CheckedDirectory`](crate::directory::CheckedDirectory) | around any other, one of your own too | only believed records, the newest that was ever seen; asks the same once a minute; answers with what is still valid where the other is away | |
//!
//! Lookups are never on the way of a packet: the tunnel keeps what it knows, and what it does not know it
//! asks for beside the packets, which wait, bounded. Where the directory decides whose an address is, it follows
//! the directory's news, and asks again when who has an address cannot be connected: with a thousand nodes and
//! every twentieth message lost, packets for an address that became another's go astray for 22 s at most, 4 in
//! 1,000 of all.
//!
//! # Records
//!
//! [`Draft::sign`](crate::directory::Draft::sign) makes one. What is checked by everybody who reads it:
//!
//! * **Whose it is**: an Ed25519 signature of the peer, over a context ([`Terms`](crate::directory::Terms)),
//!   so that a signature for one purpose or network counts for no other.
//! * **The newest counts**: it has a sequence number, and one that is not larger than the last is refused,
//!   for as long as an older record could still be valid. The time in milliseconds makes a good number;
//!   who is told `Stale` continues from the number it is told.
//! * **It ends**: valid for 24 h at most by default (two hours for libp2p's nodes), 5 minutes of difference
//!   between clocks allowed. Whoever is gone is forgotten by itself; so records have to be renewed well before
//!   their end.
//! * **It is small**: 4,096 bytes, 8 addresses.
//!
//! A clock that was wrong for a while does no lasting harm: what expired by a clock that was ahead comes
//! back, what was entered by it is not believed and shuts nobody out. With etcd, what was refused by it is looked
//! at again within five seconds.
//!
//! ```
//! use vpn_p2p::directory::{Book, CacheConfig, CheckedDirectory, Draft, StaticDirectory, Terms, UnixClock};
//! use vpn_p2p::directory::write_records;
//! use vpn_p2p::identity::Identity;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // A file for people who are there for a year.
//! const TERMS: Terms = Terms { max_validity: 400 * 24 * 3600, ..Terms::new(b"example record v1\0") };
//! let (peer, clock) = (Identity::generate()?, UnixClock::default());
//! let draft = Draft {
//!     addresses: vec!["10.9.0.2".parse()?],
//!     sequence: 1,
//!     expires: clock.now() + 365 * 24 * 3600,
//!     body: (&b"198.51.100.7:4001"[..]).into(),
//! };
//! let path = std::env::temp_dir().join(format!("peers-{}", std::process::id()));
//! write_records(&path, [&draft.sign(&peer, &TERMS)?])?;
//!
//! let book = Book::new(TERMS).members([peer.id()]);
//! let file = StaticDirectory::with(&path, book.clone(), clock.clone())?;
//! let directory = CheckedDirectory::new(file, book, CacheConfig::default(), clock);
//! # std::fs::remove_file(&path)?;
//! // After the file was changed (`write_records` replaces it whole):
//! // directory.inner().reload()?;
//! # let _ = directory;
//! # Ok(())
//! # }
//! ```
//!
//! # Files of peers
//!
//! Two files have "known peers" in them, and they are different:
//!
//! * **Records** ([`write_records`](crate::directory::write_records)): base64, one per line, `#` begins a comment.
//!   Everything in them is signed, so anybody may hand one on. Write
//!   [`CheckedDirectory::records`](crate::directory::CheckedDirectory::records) now and then, and read it as one
//!   link of a chain: a node then starts without any of the others.
//! * **`known_peers`** of a libp2p node: one address with `/p2p/` and its name per line. It says whom to dial
//!   first, and proves nothing: who answers shows its key. The node writes it by itself, the 256 that were met
//!   last, so that bootstrap nodes are needed once.
//!
//! # Addresses from etcd
//!
//! `EtcdDirectory::lease` takes one address of each pool by one transaction, under one lease per node:
//!
//! * While the node lives it renews the lease, three times as often as needed. Whoever crashes and is back
//!   before the lease is over (300 s unless said otherwise) has its address; later it gets the same if nobody
//!   took it, for its first choice follows from its key.
//! * Its word counts: [`authority`](vpn_core::PeerDirectory::authority) says that, and the tunnel over libp2p asks
//!   again whenever a record changes, or who had an address cannot be reached. A [`ChainDirectory`](crate::directory::ChainDirectory) or
//!   [`CheckedDirectory`](crate::directory::CheckedDirectory) around it decides by claims, as long as records live: give the tunnel etcd itself.
//! * A node that dies frees its address when its lease is over; `close` frees it at once. Call it where a
//!   node ends on purpose.
//! * **etcd is away**: nobody gives anything up. Addresses, records and lookups go on from the copy, for as long
//!   as it takes; when etcd is back every lease has its whole time again.
//! * **One node is cut off** for longer than its lease, and others are not: its address may be given away. Then
//!   it gets another, and `addresses()` tells; a node begins again with that one.
//! * **etcd lost everything**, or is another one, also if it was made anew with the same options: each node writes what it has again; of two that want one
//!   address the first has it.
//!
//! Shorter leases free addresses sooner, and cost a request per node and third of a lease. Under 60 s, a
//! restart of etcd takes longer than a lease.
//!
//! What is below the prefix, and how it is called, is in the documentation of `directory::etcd`. Others may write
//! there too: what is no record, or too long, is passed over and counted (`EtcdStatus::refused`).
//!
//! # TLS and passwords
//!
//! Whoever can write to etcd can give addresses away and leave peers out, though speak for none; whoever can
//! read it sees who is where. So beyond loopback: TLS (`EtcdTls`), a user per kind of node (`EtcdUser`), and a role
//! for the prefix alone:
//!
//! ```sh
//! etcdctl role add mesh
//! etcdctl role grant-permission mesh --prefix=true readwrite vpn/
//! etcdctl user add node                     # asks for the password
//! etcdctl user grant-role node mesh
//! etcdctl auth enable
//! ```
//!
//! Rules for many hosts are kept below another prefix, `vpn-rules/`, with a user of their own: neither prefix may
//! begin with the other, or who may say where it is could say where everybody's packets go.
//!
//! | `libp2p-node` | `multi-region` | What it says |
//! |---|---|---|
//! | `node.etcd` | `etcd.endpoints` | where it is |
//! | `node.etcd_ca` | `etcd.ca` | the authority that signed etcd's certificate, in PEM; with it, TLS is used and `http://` is an error |
//! | `node.etcd_certificate`, `node.etcd_key` | `etcd.certificate`, `etcd.key` | ours, where etcd asks for one (`--client-cert-auth`) |
//! | `node.etcd_server_name` | `etcd.server_name` | the name in its certificate, where it is not the endpoint's |
//! | `node.etcd_user`, `node.etcd_password_file` | `etcd.user`, `etcd.password_file` | the user; the password is a file that others cannot read, and in no log or error |
//!
//! Tokens expire, certificates too: the first are renewed by themselves, the second need a restart.
//!
//! # Rules for a fleet
//!
//! The same etcd can hold rules: `vpn_routing::source::EtcdRules`, which `multi-region` reads by its table
//! `[etcd]`. Each key below the prefix is a text as a file of rules has it, one that makes no sense keeps its last
//! good rules and is told. Whoever can write there decides what leaves by which tunnel on every host, so give
//! it a prefix, a role and a user of its own.
//!
//! # Testing
//!
//! | What | How |
//! |---|---|
//! | the pure parts, and the contract of the directories without a network | `cargo test -p vpn-p2p --features directory --lib directory` |
//! | etcd itself: races for addresses, crashes, compaction, lost data, TLS, users | `cargo test -p vpn-p2p --features etcd --test etcd` (Debian: etcd-server) |
//! | 1,000 nodes on virtual time: lookups, staleness, traffic | `cargo test -p vpn-p2p --features directory --test directory_scale -- --nocapture` |
//! | for how long packets go astray when an address becomes another's | `cargo test -p vpn-p2p --features libp2p --lib stale -- --nocapture` |
//! | your own | `vpn_core::testing::conformance::peer_directory` |
//!
//! # Troubleshooting
//!
//! | What you see | Why, and what to do |
//! |---|---|
//! | `all N addresses of … are taken` | a larger pool; or wait for the leases of nodes that are gone: they end by `close`, or after the lease |
//! | `etcd at … cannot be asked` | the cause says which: refused (address, port), a certificate (authority, name), `permission denied` (user, role, prefix) |
//! | `EtcdStatus::following` is `false` | changes do not come in; `trouble` says why. What is known goes on |
//! | `it is valid for too long`, `it expired` | compare the clocks of both |
//! | `sequence N is known already` | an old record, or two programs with one key: continue from `N`, or give each its own |
//! | `this peer is not a member` | its key is not on the list of whoever says so |
//! | a peer's address changed, and packets go to the old place | nothing tells changes: see `changed` of your directory, or wait for the cache (60 s) |
