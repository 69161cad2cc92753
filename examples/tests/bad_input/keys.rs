//! Each key of the configuration, wrong in each way there is.

use crate::support::place::{Place, site};

/// What is wrong with one key, in a configuration that is good without it.
#[test]
fn keys() {
    let place = Place::new();
    let cases = [
        ("[timeouts]\nudp = 5", "toml:2:", "udp"),
        ("[etcd]\nendpoints = []", "etcd.endpoints", "1 to 16"),
        (
            "[etcd]\nendpoints = [\"etcd.example:2379\"]",
            "toml:2:",
            "endpoints",
        ),
        (
            "[etcd]\nendpoints = [\"127.0.0.1:1\"]\nprefix = \"x\"",
            "etcd.prefix",
            "slash",
        ),
        (
            "[etcd]\nendpoints = [\"192.0.2.7:2379\"]",
            "etcd.ca",
            "without TLS",
        ),
        (
            "[etcd]\nendpoints = [\"127.0.0.1:1\"]\npassword = \"x\"",
            "toml:3:",
            "password",
        ),
        #[cfg(feature = "etcd")]
        (
            "[etcd]\nendpoints = [\"127.0.0.1:1\"]\nuser = \"x\"",
            "etcd.user",
            "etcd.password_file",
        ),
        #[cfg(feature = "etcd")]
        (
            "[etcd]\nendpoints = [\"192.0.2.7:1\"]\nca = \"none.pem\"",
            "etcd.ca",
            "none.pem",
        ),
        ("[interface]\nmtu = 1000", "toml:2:", "mtu"),
        (
            "[interface]\nmtu = 9000",
            "interface.mtu",
            "limits.largest_packet",
        ),
        ("[answers]\nblocked = \"maybe\"", "toml:2:", "blocked"),
        ("[answers]\nunknown_owner = 1", "toml:2:", "unknown_owner"),
        ("[answers]\ndown = \"hold\"", "toml:2:", "down"),
        ("[answers]\nno_family = true", "toml:2:", "no_family"),
        ("[answers]\nno_resolver = \"\"", "toml:2:", "no_resolver"),
        ("[answers]\ncold = \"Reject\"", "toml:2:", "cold"),
        ("[timeouts]\nudp = \"5 parsecs\"", "toml:2:", "udp"),
        ("[timeouts]\nicmp = \"1ms\"", "toml:2:", "icmp"),
        ("[timeouts]\nother = \"90d\"", "toml:2:", "other"),
        (
            "[timeouts]\ntcp_established = \"0s\"",
            "toml:2:",
            "tcp_established",
        ),
        (
            "[timeouts]\ntcp_transitory = -1",
            "toml:2:",
            "tcp_transitory",
        ),
        ("[timeouts]\ntcp_closed = \"\"", "toml:2:", "tcp_closed"),
        (
            "[timeouts]\nrecheck_owner = \"1h\"",
            "toml:2:",
            "recheck_owner",
        ),
        ("[timeouts]\nsctp = \"1h\"", "toml:2:", "sctp"),
        ("[hold]\nowner = \"1h\"", "toml:2:", "owner"),
        ("[hold]\nconnecting = 5", "toml:2:", "connecting"),
        ("[hold]\nflow_packets = 0", "toml:2:", "flow_packets"),
        ("[hold]\nflows = \"many\"", "toml:2:", "flows"),
        ("[hold]\nbytes = -1", "toml:2:", "bytes"),
        (
            "[hold]\ntunnel_flows = 5000",
            "hold.tunnel_flows",
            "hold.flows",
        ),
        (
            "[hold]\ntunnel_bytes = 2000000",
            "hold.tunnel_bytes",
            "hold.bytes",
        ),
        (
            "[hold]\nowner_flows = 5000",
            "hold.owner_flows",
            "hold.flows",
        ),
        (
            "[hold]\nowner_bytes = 2000000",
            "hold.owner_bytes",
            "hold.bytes",
        ),
        (
            "[hold]\nunknown_flows = 5000",
            "hold.unknown_flows",
            "hold.flows",
        ),
        (
            "[hold]\nunknown_bytes = 2000000",
            "hold.unknown_bytes",
            "hold.bytes",
        ),
        ("[limits]\nflows = 0", "toml:2:", "flows"),
        (
            "[limits]\nflows_per_owner = 100000",
            "limits.flows_per_owner",
            "limits.flows",
        ),
        (
            "[limits]\nflows_per_inbound_rule = 100000",
            "limits.flows_per_inbound_rule",
            "limits.flows",
        ),
        ("[timeouts]\nasked = \"1d 1h\"", "toml:2:", "asked"),
        ("[limits]\nqueue_packets = 1.5", "toml:2:", "queue_packets"),
        (
            "[limits]\nlargest_packet = 100",
            "toml:2:",
            "largest_packet",
        ),
        ("[limits]\nfragments = 0", "toml:2:", "fragments"),
        ("[limits]\nfragment_bytes = -1", "toml:2:", "fragment_bytes"),
        ("[limits]\nmemory = 4096", "toml:2:", "memory"),
        ("[timeouts]\nfragments = \"2m\"", "toml:2:", "fragments"),
        ("[dns]\npatience = \"1us\"", "toml:2:", "patience"),
        ("[dns]\nflow_queries = 0", "toml:2:", "flow_queries"),
        ("[dns]\nowner_queries = 0", "toml:2:", "owner_queries"),
        ("[dns]\nqueries = 0", "toml:2:", "queries"),
        ("[dns]\naddress_names = 0", "toml:2:", "address_names"),
        ("[dns]\ntunnel_names = 0", "toml:2:", "tunnel_names"),
        ("[dns]\nshortest = \"2days\"", "dns.shortest", "dns.longest"),
        ("[dns]\nlongest = \"1y\"", "toml:2:", "longest"),
        (
            "[dns]\nresolver = \"127.0.0.1\"",
            "dns.resolver",
            "never reaches",
        ),
        (
            "[dns]\nresolver = \"::ffff:127.0.0.1\"",
            "dns.resolver",
            "never reaches",
        ),
        (
            "[dns]\nresolver = \"224.0.0.1\"",
            "dns.resolver",
            "never reaches",
        ),
        (
            "[tunnel.fr]\nwireguard = \"uk.conf\"\nmtu = 9000",
            "tunnel.fr.mtu",
            "limits.largest_packet",
        ),
        (
            "[tunnel.fr]\nwireguard = \"uk.conf\"\ndns = [\"one\"]",
            "toml:3:",
            "dns",
        ),
        (
            "[tunnel.fr]\nwireguard = \"uk.conf\"\nmtu = 100",
            "toml:3:",
            "mtu",
        ),
        (
            "[tunnel.fr]\nwireguard = \"uk.conf\"\nconnect = \"never\"",
            "toml:3:",
            "on-demand",
        ),
        (
            "[tunnel.fr]\nwireguard = \"uk.conf\"\nidle = \"1m\"",
            "tunnel.fr.idle",
            "on-demand",
        ),
        (
            "[tunnel.fr]\nwireguard = \"uk.conf\"\nno_answer_after = \"1s\"",
            "toml:3:",
            "no_answer_after",
        ),
        (
            "[tunnel.fr]\nmtu = 1400",
            "tunnel.fr.wireguard: missing",
            "openvpn",
        ),
        (
            "[tunnel.fr]\nwireguard = \"uk.conf\"\nopenvpn = \"uk.ovpn\"",
            "tunnel.fr.openvpn",
            "one of them",
        ),
        (
            "[tunnel.fr]\nopenvpn = \"uk.ovpn\"\ninterface = \"wg0\"",
            "tunnel.fr.interface",
            "one of them",
        ),
        (
            "[tunnel.fr]\nwireguard = \"uk.conf\"\nauth = \"me.txt\"",
            "tunnel.fr.auth",
            "only with openvpn",
        ),
        (
            "[tunnel.fr]\nopenvpn = \"uk.ovpn\"\naddresses = [\"10.0.0.2/32\"]",
            "tunnel.fr.addresses",
            "only with interface",
        ),
        (
            "[tunnel.fr]\ninterface = \"wg0\"\nconnect = \"on-demand\"",
            "tunnel.fr.connect",
            "only with wireguard",
        ),
        (
            "[tunnel.fr]\ninterface = \"a name of many letters\"",
            "tunnel.fr.interface",
            "name",
        ),
        (
            "[tunnel.fr]\ninterface = \"ovpn-uk\"",
            "tunnel.fr.interface",
            "made here",
        ),
        (
            "[tunnel.fr]\ninterface = \"wg0\"\n[tunnel.us]\ninterface = \"wg0\"",
            "tunnel.us.interface",
            "taken by fr",
        ),
        ("[group.eu]\nmembers = []", "group.eu.members", "1 to"),
        (
            "[group.eu]\nmembers = [\"mars\"]",
            "group.eu.members",
            "mars",
        ),
        (
            "[group.eu]\nmembers = [\"uk\", \"uk\"]",
            "group.eu.members",
            "twice",
        ),
        ("[group.uk]\nmembers = [\"uk\"]", "group.uk", "another"),
        (
            "[group.block]\nmembers = [\"uk\"]",
            "group.block",
            "another",
        ),
        (
            "[group.eu]\nmembers = [\"uk\"]\npolicy = \"dice\"",
            "toml:3:",
            "policy",
        ),
        (
            "[group.eu]\nmembers = [\"uk\"]\nfail_back = 1",
            "toml:3:",
            "fail_back",
        ),
        (
            "[group.eu]\nmembers = [\"uk\"]\npolicy = \"weighted\"",
            "group.eu.weights",
            "missing",
        ),
        (
            "[group.eu]\nmembers = [\"uk\"]\npolicy = \"weighted\"\nweights = [1, 2]",
            "group.eu.weights",
            "each member",
        ),
        (
            "[group.eu]\nmembers = [\"uk\"]\nweights = [1]",
            "group.eu.weights",
            "weighted",
        ),
        (
            "[group.eu]\nmembers = [\"uk\"]\ntolerance = \"1s\"",
            "group.eu.tolerance",
            "latency",
        ),
        (
            "[group.eu]\nmembers = [\"uk\"]\nhash_by = \"owner\"",
            "group.eu.hash_by",
            "hash",
        ),
        (
            "[[rule]]\nto = \"uk\"\nport = \"9-1\"",
            "toml:3: [[rule]] number 1: port",
            "larger",
        ),
        ("[[rule]]\nto = \"mars\"", "file-rule#1", "mars"),
        (
            "[[rule]]\nto = \"block\"\ndst = \"::ffff:192.0.2.1\"",
            "toml:3: [[rule]] number 1: dst",
            "write it as IPv4",
        ),
        (
            "[[inbound]]\ntunnel = \"mars\"\nproto = \"tcp\"",
            "toml: inbound file-rule#1",
            "mars",
        ),
        (
            "[[filter]]\naction = \"drop\"\ntunnel = \"mars\"",
            "toml: filter file-rule#1",
            "mars",
        ),
        (
            "[[rule]]\nto = \"uk\"\non_down = \"mars\"",
            "file-rule#1",
            "mars",
        ),
        (
            "direct = \"never\"\n[[rule]]\nto = \"direct\"",
            "file-rule#1",
            "not available",
        ),
        (
            "direct = \"maybe\"\n[[rule]]\nto = \"uk\"",
            "toml:1:",
            "maybe",
        ),
        ("lockdown = 1\n[[rule]]\nto = \"uk\"", "toml:1:", "lockdown"),
        (
            "[tunnel.fr]\nwireguard = \"uk.conf\"\nroutes = \"some\"",
            "toml:3:",
            "no-default",
        ),
        (
            "[tunnel.fr]\nwireguard = \"uk.conf\"\nmap = [{ local = \"10.0.0.0/8\" }]",
            "toml:3:",
            "remote",
        ),
        (
            "[tunnel.fr]\nwireguard = \"uk.conf\"\n\
             map = [{ local = \"10.0.0.0/8\", remote = \"192.168.0.0/16\" }]",
            "tunnel.fr.map",
            "length",
        ),
        ("rule = 1", "toml:1:", "[[rule]]"),
        (
            "[[inbound]]\ntunnel = \"uk\"",
            "[[inbound]] number 1: proto",
            "missing",
        ),
        (
            "[[filter]]\naction = \"maybe\"",
            "[[filter]] number 1: action",
            "maybe",
        ),
    ];
    for (text, where_, what) in cases {
        let site = site();
        let rest = "[tunnel.uk]\nwireguard = \"uk.conf\"\n";
        // A database would need to stand before the first table.
        let rule = if text.contains("rule") {
            ""
        } else {
            "[[rule]]\nto = \"uk\"\n"
        };
        site.write("multi-region.toml", &format!("{text}\n{rest}{rule}"));
        place.check_fails(&site, &["multi-region.toml", where_, what]);
    }
}
