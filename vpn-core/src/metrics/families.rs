//! Every family of the SDK. [`METRICS.md`](super) describes the same ones: a test compares.

use super::{Family, Unit};

macro_rules! families {
    ($($(#[$meta:meta])* $section:ident: [$($name:ident = $family:expr;)+];)+) => {
        $($(
            #[allow(missing_docs, reason = "each says what it is, in `help`")]
            pub const $name: Family = $family;
        )+)+
        $($(#[$meta])* pub const $section: &[&Family] = &[$(&$name),+];)+

        /// All of them.
        pub const ALL: &[&[&Family]] = &[$($section),+];
    };
}

families! {
    /// Of a router.
    ROUTER: [
        IN_PACKETS = Family::counter("vpn_in_packets_total", &["from"],
            "Packets that came, by where from; router: it made them itself.");
        OUT_PACKETS = Family::counter("vpn_out_packets_total", &["to"],
            "Packets that were taken, by whom.");
        DROPPED_PACKETS = Family::counter("vpn_dropped_packets_total", &["reason"],
            "Packets that were dropped, by reason.");
        HELD_PACKETS = Family::gauge("vpn_held_packets", &[],
            "Packets that wait for an owner or a tunnel.");
        QUEUED_PACKETS = Family::gauge("vpn_queued_packets", &[],
            "Packets that wait to be taken by a tunnel or the device.");
        FLOWS = Family::gauge("vpn_flows", &[], "Flows in the table.");
    ];
    /// Of its rules.
    RULES: [
        RULES_GENERATION = Family::gauge("vpn_rules_generation", &[],
            "Number of the rules in force; 0 before the first.");
        RULES_ERROR = Family::gauge("vpn_rules_error", &[],
            "1 while rules cannot be loaded and older ones are in force.");
        RULES_PROBLEMS = Family::gauge("vpn_rules_problems", &[],
            "Rules that block because they make no sense.");
        RULES_DECISIONS = Family::counter("vpn_rules_decisions_total", &["by"],
            "New flows, by what decided them.");
    ];
    /// Of DNS.
    DNS: [
        DNS_QUERIES = Family::counter("vpn_dns_queries_total", &[], "Queries that were sent.");
        DNS_ANSWERS = Family::counter("vpn_dns_answers_total", &[], "Answers to them.");
        DNS_UNEXPECTED = Family::counter("vpn_dns_unexpected_total", &[],
            "Answers that nobody waited for.");
        DNS_REFUSED = Family::counter("vpn_dns_refused_total", &[],
            "Queries that were not sent because too many wait.");
        DNS_PENDING = Family::gauge("vpn_dns_pending", &[], "Queries that wait for their answers.");
        DNS_NAMES = Family::gauge("vpn_dns_names", &[], "Names that are known for addresses.");
    ];
    /// Of each tunnel.
    TUNNELS: [
        TUNNEL_UP = Family::gauge("vpn_tunnel_up", &["tunnel"], "1 while its peer answers.");
        TUNNEL_STATE = Family::gauge("vpn_tunnel_state", &["tunnel", "state"],
            "1 for the state it is in, 0 for the others.");
        TUNNEL_PACKETS = Family::counter("vpn_tunnel_packets_total", &["tunnel", "direction"],
            "Packets routed into it, and delivered from it.");
        TUNNEL_BYTES = Family::counter("vpn_tunnel_bytes_total", &["tunnel", "direction"],
            "Their bytes, IP headers included.").of(Unit::Bytes);
        TUNNEL_DROPPED = Family::counter("vpn_tunnel_dropped_packets_total", &["tunnel", "reason"],
            "Packets dropped on its account, by reason.");
        TUNNEL_FLOWS = Family::gauge("vpn_tunnel_flows", &["tunnel"], "Flows that use it.");
        TUNNEL_NAMES = Family::gauge("vpn_tunnel_names", &["tunnel"],
            "Names that its resolver gave to addresses.");
        TUNNEL_MTU = Family::gauge("vpn_tunnel_mtu_bytes", &["tunnel"],
            "Largest packet inside it, once that is known.").of(Unit::Bytes);
        TUNNEL_ROUND_TRIP = Family::gauge("vpn_tunnel_round_trip_seconds", &["tunnel"],
            "To its other end and back, once measured.").of(Unit::Seconds);
        TUNNEL_FDS = Family::gauge("vpn_tunnel_open_fds", &["tunnel"],
            "File descriptors it has in this process.");
        TUNNEL_TASKS = Family::gauge("vpn_tunnel_tasks", &["tunnel"],
            "Tasks it has in this process.");
        TUNNEL_MEMORY = Family::gauge("vpn_tunnel_memory_bytes", &["tunnel"],
            "Memory of its state and buffers in this process, about.").of(Unit::Bytes);
        TUNNEL_PROCESS_FDS = Family::gauge("vpn_tunnel_process_open_fds", &["tunnel"],
            "File descriptors of the process it has besides.");
        TUNNEL_PROCESS_THREADS = Family::gauge("vpn_tunnel_process_threads", &["tunnel"],
            "Threads of that process.");
        TUNNEL_PROCESS_MEMORY = Family::gauge("vpn_tunnel_process_resident_memory_bytes", &["tunnel"],
            "Resident memory of that process.").of(Unit::Bytes);
    ];
    /// Of groups of tunnels.
    GROUPS: [
        GROUP_IN_USE = Family::gauge("vpn_group_member_in_use", &["group", "tunnel"],
            "1 for members that new flows may take.");
    ];
    /// Of the streams to each peer.
    POOLS: [
        POOL_STREAMS = Family::gauge("vpn_pool_streams", &["peer", "state"],
            "Streams that carry packets, and that are being opened.");
        POOL_STREAM_EVENTS = Family::counter("vpn_pool_stream_events_total", &["peer", "event"],
            "Streams that were opened, not opened, accepted, broke, stalled (of those that broke), were retired.");
        POOL_PACKETS = Family::counter("vpn_pool_packets_total", &["peer", "what"],
            "Packets taken, delivered (the peer said so), and received.");
        POOL_BYTES = Family::counter("vpn_pool_bytes_total", &["peer", "what"],
            "Their bytes; of a broken stream's last packets they are not known.").of(Unit::Bytes);
        POOL_DROPPED = Family::counter("vpn_pool_dropped_packets_total", &["peer", "reason"],
            "Packets that were taken and then dropped, by reason.");
        POOL_PENDING = Family::gauge("vpn_pool_pending_packets", &["peer", "where"],
            "Packets that wait, are in flight, or were on a stream that ended.");
        POOL_WAITING_BYTES = Family::gauge("vpn_pool_waiting_bytes", &["peer"],
            "Memory of the packets that wait.").of(Unit::Bytes);
        POOL_SILENCES = Family::counter("vpn_pool_silences_total", &["peer"],
            "How often the peer was taken for gone because it did not answer.");
        POOL_ROUND_TRIP = Family::gauge("vpn_pool_round_trip_seconds", &["peer"],
            "To the peer and back, once measured.").of(Unit::Seconds);
    ];
    /// Of circuit breakers.
    BREAKERS: [
        BREAKER_STATE = Family::gauge("vpn_breaker_state", &["breaker", "state"],
            "1 for the state it is in, 0 for the others.");
        BREAKER_TRANSITIONS = Family::counter("vpn_breaker_transitions_total", &["breaker", "to"],
            "Changes of its state, by the new one.");
        BREAKER_PERMITS = Family::counter("vpn_breaker_permits_total", &["breaker", "outcome"],
            "Permits that were given and refused.");
    ];
    /// Of what is tried again.
    RETRIES: [
        RETRY_ATTEMPTS = Family::counter("vpn_retry_attempts_total", &["retry"],
            "Attempts that were made, the first ones included.");
        RETRY_CALLS = Family::counter("vpn_retry_calls_total", &["retry", "outcome"],
            "Calls that succeeded, and that were given up.");
    ];
    /// Of what is limited: rates, places, time.
    LIMITS: [
        LIMIT_REQUESTS = Family::counter("vpn_limit_requests_total", &["limit", "outcome"],
            "What asked for leave, by what came of it.");
    ];
    /// Of peers that are watched.
    LIVES: [
        PEER_LIFE = Family::gauge("vpn_peer_life", &["peer", "life"],
            "1 for what is known of its life, 0 for the rest.");
        PEER_QUESTIONS = Family::counter("vpn_peer_questions_total", &["peer", "outcome"],
            "Questions whether it is there that were asked, and that were answered.");
        PEER_DEATHS = Family::counter("vpn_peer_deaths_total", &["peer"],
            "How often it was found dead.");
    ];
    /// Of supervised tasks.
    TASKS: [
        TASK_STATE = Family::gauge("vpn_task_state", &["task", "state"],
            "1 for the state it is in, 0 for the others.");
        TASK_STARTS = Family::counter("vpn_task_starts_total", &["task"],
            "How often it was started, the first time included.");
        TASK_ENDS = Family::counter("vpn_task_ends_total", &["task", "how"],
            "How often it ended by itself, by how.");
    ];
    /// Of the ways to each peer.
    PATHS: [
        PATH_IN_USE = Family::gauge("vpn_path_in_use", &["peer", "path"],
            "1 for the way that packets take.");
        PATH_PACKETS = Family::counter("vpn_path_packets_total", &["peer", "path", "direction"],
            "Packets that took it.");
        PATH_BYTES = Family::counter("vpn_path_bytes_total", &["peer", "path", "direction"],
            "Their bytes.").of(Unit::Bytes);
        PATH_ROUND_TRIP = Family::gauge("vpn_path_round_trip_seconds", &["peer", "path"],
            "To the peer and back, once measured.").of(Unit::Seconds);
    ];
    /// Of a member of a mesh.
    MESH: [
        MESH_HUB_UP = Family::gauge("vpn_mesh_hub_up", &["mesh", "hub"],
            "1 while this hub has us as a member.");
        MESH_PEERS = Family::gauge("vpn_mesh_peers", &["mesh", "path"],
            "Peers that are known, by the way packets take to them; none: not connected.");
        MESH_ATTEMPTS = Family::counter("vpn_mesh_attempts_total", &["mesh"],
            "Attempts to connect with peers, the first ones included.");
        MESH_RETRIES = Family::counter("vpn_mesh_retries_total", &["mesh"],
            "Attempts after one that came to nothing.");
        MESH_CONNECTED = Family::counter("vpn_mesh_connected_total", &["mesh", "path"],
            "How often a peer was connected (relay: a session began there) and a direct way taken.");
        MESH_FALLBACKS = Family::counter("vpn_mesh_fallbacks_total", &["mesh"],
            "How often a direct way was given up for a relay.");
        MESH_PACKETS = Family::counter("vpn_mesh_packets_total", &["mesh", "path", "direction"],
            "Packets of users, by their way; those that came are datagrams.");
        MESH_BYTES = Family::counter("vpn_mesh_bytes_total", &["mesh", "path", "direction"],
            "Their bytes; of those that came, with what was around them.").of(Unit::Bytes);
        MESH_DROPPED = Family::counter("vpn_mesh_dropped_packets_total", &["mesh", "reason"],
            "Packets that were taken and then dropped, by reason.");
        MESH_CONFLICTS = Family::counter("vpn_mesh_conflicts_total", &["mesh"],
            "Claims of what somebody else has, none of which were granted.");
    ];
    /// Of a hub of a mesh.
    HUB: [
        HUB_MEMBERS = Family::gauge("vpn_hub_members", &["hub", "state"],
            "Members that are here and that are away, and nodes that are not registered yet.");
        HUB_MESSAGES = Family::counter("vpn_hub_messages_total", &["hub", "what"],
            "Messages of members that were taken, by kind.");
        HUB_REFUSED = Family::counter("vpn_hub_refused_total", &["hub", "reason"],
            "Registrations that were refused, by reason.");
        HUB_PACKETS = Family::counter("vpn_hub_packets_total", &["hub", "outcome"],
            "Datagrams for members, by what became of them, and datagrams that were thrown away.");
        HUB_RELAYED_BYTES = Family::counter("vpn_hub_relayed_bytes_total", &["hub"],
            "Bytes that were relayed, headers included.").of(Unit::Bytes);
        HUB_CARRIED_BYTES = Family::counter("vpn_hub_carried_bytes_total", &["hub"],
            "Bytes that were handed to other hubs, headers included.").of(Unit::Bytes);
        HUB_NEIGHBOURS = Family::gauge("vpn_hub_neighbours", &["hub", "state"],
            "Other hubs that are here, and that are away.");
    ];
    /// Of a node of a network without a hub.
    NODE: [
        NODE_CONNECTIONS = Family::gauge("vpn_node_connections", &["node", "path"],
            "Connections with peers that are there, direct ones and those through a relay.");
        NODE_CONNECTED = Family::counter("vpn_node_connected_total", &["node", "path"],
            "Connections that were made.");
        NODE_MEMBERS = Family::gauge("vpn_node_members", &["node"],
            "Connected peers that have proven to be members.");
        NODE_PUNCHED = Family::counter("vpn_node_punched_total", &["node", "outcome"],
            "Holes for a direct way that were punched, and that could not be.");
        NODE_TURNED_AWAY = Family::counter("vpn_node_turned_away_total", &["node"],
            "Connections that were refused.");
        NODE_QUESTIONS = Family::counter("vpn_node_questions_total", &["node"],
            "Questions to the directory that members keep.");
        NODE_MESSAGES = Family::counter("vpn_node_messages_total", &["node", "what"],
            "Messages for these, those without an answer, and messages of others.");
        NODE_RECORDS = Family::counter("vpn_node_records_total", &["node", "outcome"],
            "Records that others gave or answered with: kept, or why not.");
        NODE_KEPT_BYTES = Family::counter("vpn_node_kept_bytes_total", &["node"],
            "Bytes of the records that were kept.").of(Unit::Bytes);
    ];
    /// Of the directory of peers.
    DIRECTORY: [
        DIRECTORY_RECORDS = Family::gauge("vpn_directory_records", &[], "Records that are known.");
        DIRECTORY_QUESTIONS = Family::counter("vpn_directory_questions_total", &["outcome"],
            "Questions, by what came of them.");
        DIRECTORY_PUBLISHED = Family::counter("vpn_directory_published_total", &["outcome"],
            "Records of our own that were taken, and refused.");
    ];
}
