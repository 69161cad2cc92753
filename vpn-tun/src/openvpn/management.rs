//! The management interface of OpenVPN: what it says, and what is said back. Pure.
//!
//! It is a text protocol, one message per line (management-notes.txt of OpenVPN). Messages that the
//! process sends by itself begin with `>`. Everything here is what a remote server may have had a
//! hand in: its refusals and what it pushes are quoted in the log.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use vpn_core::{Assigned, DownCause};

use super::credentials::Credentials;
use super::profile::Profile;
use super::pull::Pull;
use super::pushed::Pushed;

/// How much of a message is quoted, in characters: a server may have written it.
const MAX_QUOTED: usize = 200;

/// What follows from a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// It is not connected any more, or an attempt failed. It tries again.
    Lost(DownCause),
    /// The server accepted us and gave us this.
    Connected(Assigned, Way),
    /// The server, or the configuration, says no: trying again does not help.
    Refused(String),
    /// The process ends.
    Ending(String),
    /// It asks where a server is.
    WhereIs(Asked),
    /// It tries again when it is told to, which should take as long as this: it has a back-off, and
    /// leaves the waiting to us.
    Holds(Duration),
}

/// A question where a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) host: String,
    pub(super) port: u16,
    /// As it says it: `udp`, `udp6`, `tcp-client`, `tcp4-client`.
    protocol: String,
    /// How often it has asked before.
    before: usize,
}

impl Asked {
    /// The line that answers it: with each attempt the next address of a family it takes.
    pub(super) fn answer(&self, found: &[SocketAddr]) -> String {
        let fits = |at: &&SocketAddr| match self.protocol.as_bytes().get(3) {
            Some(b'4') => at.is_ipv4(),
            Some(b'6') => at.is_ipv6(),
            _ => true,
        };
        let found: Vec<&SocketAddr> = found.iter().filter(fits).collect();
        match found.get(self.before % found.len().max(1)) {
            Some(at) => format!("remote MOD {} {}\n", at.ip(), at.port()),
            None => "remote SKIP\n".to_owned(),
        }
    }
}

/// How packets get to the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Way {
    /// Where the server is, as far as the process said.
    pub(super) server: Option<SocketAddr>,
    /// Whether each packet is a datagram of its own, so that it has to fit the path.
    pub(super) datagrams: bool,
    /// What OpenVPN adds to a packet, in bytes.
    pub(super) overhead: u16,
}

/// One process's side of the conversation.
#[derive(Debug)]
pub(super) struct Management {
    credentials: Option<Credentials>,
    profile_mtu: Option<u16>,
    pull: Pull,
    pushed: Pushed,
    /// Whether it asked for a server over UDP.
    datagrams: bool,
    /// How often it asked.
    asked: usize,
    /// What the last message of importance said, for an end without one.
    last_error: Option<String>,
    /// What it has against the server's certificate.
    distrust: Option<String>,
    /// The server did not take user and password. What follows says whether that is final: the
    /// process ends, or it was a token that expired, or a server that is full, and it tries again.
    rejected: Option<String>,
}

impl Management {
    /// What is said as soon as it is connected.
    pub(super) const GREETING: &str = "log on\nstate on\n";

    /// Has it try now.
    pub(super) const TRY: &str = "hold release\n";

    /// Has it connect anew, with the interface left as it is (`persist-tun`).
    pub(super) const RECONNECT: &str = "signal SIGUSR1\n";

    pub(super) fn new(credentials: Option<Credentials>, profile: &Profile) -> Self {
        Self {
            credentials,
            profile_mtu: profile.mtu(),
            pushed: Pushed::new(profile.pull()),
            pull: profile.pull().clone(),
            datagrams: false,
            asked: 0,
            last_error: None,
            distrust: None,
            rejected: None,
        }
    }

    /// Why the server did not take user and password, for an end without a word.
    pub(super) fn rejected(&mut self) -> Option<String> {
        self.rejected.take()
    }

    /// Takes in a line. What is to be said back is appended to `say`.
    pub(super) fn line(&mut self, line: &str, say: &mut String) -> Option<Told> {
        let line = line.trim_end();
        let (kind, rest) = line.strip_prefix('>')?.split_once(':')?;
        match kind {
            "HOLD" => {
                let (_, seconds) = rest.rsplit_once(':')?;
                let seconds = seconds.parse().unwrap_or(0);
                Some(Told::Holds(Duration::from_secs(seconds)))
            }
            "STATE" => self.state(rest),
            "LOG" => {
                self.log(rest);
                None
            }
            "PASSWORD" => self.password(rest, say),
            "REMOTE" => {
                let mut parts = rest.split(',');
                let asked = Asked {
                    host: parts.next()?.to_owned(),
                    port: parts.next()?.parse().ok()?,
                    protocol: parts.next().unwrap_or_default().to_owned(),
                    before: self.asked,
                };
                self.asked += 1;
                self.datagrams = asked.protocol.starts_with("udp");
                Some(Told::WhereIs(asked))
            }
            "FATAL" => Some(match (self.rejected(), self.last_error.take()) {
                (Some(why), _) => Told::Refused(why),
                (None, Some(earlier)) => Told::Ending(format!("{rest} ({earlier})")),
                (None, None) => Told::Ending(rest.to_owned()),
            }),
            _ => None,
        }
    }

    fn state(&mut self, rest: &str) -> Option<Told> {
        // time,state,description,...
        let mut fields = rest.split(',').skip(1);
        let (state, about) = (fields.next()?, fields.next().unwrap_or_default());
        match (state, about) {
            ("CONNECTED", "SUCCESS") => Some(match self.pushed.assigned(self.profile_mtu) {
                Some(assigned) => Told::Connected(
                    assigned,
                    Way {
                        // Our own address in the tunnel is between.
                        server: server(fields.nth(1), fields.next()),
                        datagrams: self.datagrams,
                        overhead: self.pushed.overhead(),
                    },
                ),
                None => Told::Refused("the server gave no address".to_owned()),
            }),
            ("RECONNECTING", why) => {
                self.pushed = Pushed::new(&self.pull);
                self.rejected = None;
                if let Some(why) = self.distrust.take() {
                    return Some(Told::Lost(DownCause::Untrusted(why)));
                }
                Some(Told::Lost(match why {
                    "" | "ping-restart" | "server_poll" | "tls-error" => DownCause::NoAnswer,
                    other => DownCause::Network(other.chars().take(MAX_QUOTED).collect()),
                }))
            }
            ("EXITING", about) => Some(match self.rejected() {
                Some(why) => Told::Refused(why),
                None => Told::Ending(self.last_error.take().unwrap_or_else(|| about.to_owned())),
            }),
            _ => None,
        }
    }

    fn log(&mut self, rest: &str) {
        // time,flags,text: the text may hold commas.
        let mut fields = rest.splitn(3, ',').skip(1);
        let (Some(flags), Some(text)) = (fields.next(), fields.next()) else {
            return;
        };
        if let Some(message) = text.strip_prefix("PUSH: Received control message: '") {
            let message = message.trim_end_matches('\'');
            // A long one comes in parts, each with the name again.
            if message.starts_with("PUSH_REPLY") {
                self.pushed.take(message, &self.pull);
            }
        }
        if let Some(error) = text.strip_prefix("VERIFY ")
            && !error.starts_with("OK")
        {
            self.distrust = Some(error.chars().take(MAX_QUOTED).collect());
        }
        if flags.contains(['F', 'N']) {
            self.last_error = Some(text.chars().take(MAX_QUOTED).collect());
        }
    }

    fn password(&mut self, rest: &str, say: &mut String) -> Option<Told> {
        if let Some(what) = rest.strip_prefix("Verification Failed: ") {
            let what = what.split('\'').nth(1).unwrap_or("Auth");
            if what != "Auth" {
                return Some(Told::Refused(format!("password of {what}")));
            }
            let asks = rest.contains("['CRV1:");
            let why = match asks {
                true => "it asks a question beside the password, which nobody here can answer",
                false => "user name or password",
            };
            self.rejected = Some(why.to_owned());
            return None;
        }
        let what = rest.strip_prefix("Need '")?.split('\'').next()?;
        match (&self.credentials, what) {
            (Some(known), "Auth") => {
                say.push_str(&format!(
                    "username \"Auth\" {}\npassword \"Auth\" {}\n",
                    quoted(&known.user),
                    quoted(&known.password)
                ));
                None
            }
            _ => Some(Told::Refused(format!("it needs a password for {what}"))),
        }
    }
}

fn server(address: Option<&str>, port: Option<&str>) -> Option<SocketAddr> {
    let address: IpAddr = address?.parse().ok()?;
    Some(SocketAddr::new(address.to_canonical(), port?.parse().ok()?))
}

/// As the management interface reads a word.
fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        if matches!(c, '"' | '\\') {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPLY: &str = ">LOG:1,,PUSH: Received control message: 'PUSH_REPLY,topology subnet,\
        ifconfig 10.100.0.2 255.255.0.0,peer-id 0'";

    fn with(credentials: Option<Credentials>) -> Management {
        let profile = Profile::parse(b"remote a\ntun-mtu 1400\n", std::path::Path::new("/p"));
        Management::new(credentials, &profile.expect("good"))
    }

    #[test]
    fn a_connection_comes_up_and_goes() {
        let (mut m, mut say) = (with(None), String::new());
        let holds = |seconds| Some(Told::Holds(Duration::from_secs(seconds)));
        assert_eq!(
            m.line(">HOLD:Waiting for hold release:0", &mut say),
            holds(0)
        );
        assert_eq!(
            m.line(">HOLD:Waiting for hold release:8", &mut say),
            holds(8)
        );
        let asked = m.line(">REMOTE:vpn.example,1194,udp", &mut say);
        let Some(Told::WhereIs(asked)) = asked else {
            panic!("{asked:?}");
        };
        assert_eq!((asked.host.as_str(), asked.port), ("vpn.example", 1194));
        assert_eq!(m.line(REPLY, &mut say), None);
        let Some(Told::Connected(assigned, way)) = m.line(
            ">STATE:2,CONNECTED,SUCCESS,10.100.0.2,192.0.2.21,1194,,",
            &mut say,
        ) else {
            panic!("not connected");
        };
        assert_eq!(assigned.mtu, 1400);
        assert_eq!(way.server, "192.0.2.21:1194".parse().ok());
        assert!(way.datagrams);
        assert_eq!(
            m.line(">STATE:3,RECONNECTING,ping-restart,,,,,", &mut say),
            Some(Told::Lost(DownCause::NoAnswer))
        );
        let end = m.line(">STATE:4,CONNECTED,SUCCESS,,,,,", &mut say);
        assert!(matches!(end, Some(Told::Refused(_))), "nothing pushed anew");
    }

    /// As OpenVPN 2.6 tells it.
    #[test]
    fn a_server_that_is_somebody_else_is_told_from_a_silent_one() {
        let (mut m, mut say) = (with(None), String::new());
        let again = ">STATE:1,RECONNECTING,tls-error,,,,,";
        for error in [
            "ERROR: depth=1, error=self-signed certificate in certificate chain: CN=x",
            "X509NAME ERROR: CN=aserver, must be other",
        ] {
            assert_eq!(m.line(&format!(">LOG:1,N,VERIFY {error}"), &mut say), None);
            let untrusted = DownCause::Untrusted(error.to_owned());
            assert_eq!(m.line(again, &mut say), Some(Told::Lost(untrusted)));
        }
        m.line(">LOG:1,,VERIFY OK: depth=1, CN=x", &mut say);
        let silent = Some(Told::Lost(DownCause::NoAnswer));
        assert_eq!(m.line(again, &mut say), silent);
    }

    /// N-27: where there were no credentials, empty ones were given.
    #[test]
    fn credentials_are_given_once_asked_and_never_shown() {
        let known = Credentials::new("lab", "a \"b\\c").expect("two lines");
        let (mut m, mut say) = (with(Some(known)), String::new());
        let need = ">PASSWORD:Need 'Auth' username/password";
        assert_eq!(m.line(need, &mut say), None);
        assert_eq!(
            say,
            "username \"Auth\" \"lab\"\npassword \"Auth\" \"a \\\"b\\\\c\"\n"
        );
        let failed = m.line(">PASSWORD:Verification Failed: 'Auth'", &mut say);
        assert_eq!(failed, None);
        assert_eq!(
            m.line(">STATE:4,EXITING,auth-failure,,,,,", &mut say),
            Some(Told::Refused("user name or password".to_owned()))
        );
        let asked = with(None).line(need, &mut say);
        assert!(matches!(asked, Some(Told::Refused(_))));
    }

    /// A token that expired and a server that is full are no refusals: OpenVPN tries again by itself.
    #[test]
    fn a_rejection_is_final_if_the_process_ends() {
        let (mut m, mut say) = (with(None), String::new());
        for failed in ["'Auth'", "'Auth' ['TEMP[backoff 5]: full']"] {
            let failed = format!(">PASSWORD:Verification Failed: {failed}");
            assert_eq!(m.line(&failed, &mut say), None);
            let again = m.line(">STATE:1,RECONNECTING,auth-temp-failure,,,,,", &mut say);
            assert!(matches!(again, Some(Told::Lost(_))), "{again:?}");
            assert_eq!(m.rejected(), None);
        }
        let asks = ">PASSWORD:Verification Failed: 'Auth' ['CRV1:R,E:id:dXNlcg==:Code?']";
        assert_eq!(m.line(asks, &mut say), None);
        match m.line(">FATAL:x", &mut say) {
            Some(Told::Refused(why)) => assert!(why.contains("question"), "{why}"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn each_attempt_gets_the_next_address_of_its_family() {
        let (mut m, mut say) = (with(None), String::new());
        let found: Vec<SocketAddr> = ["192.0.2.1:1194", "[2001:db8::1]:1194", "192.0.2.2:1194"]
            .map(|at| at.parse().expect("an address"))
            .into();
        let mut answer = |protocol: &str, found: &[SocketAddr]| match m
            .line(&format!(">REMOTE:x,1194,{protocol}"), &mut say)
        {
            Some(Told::WhereIs(asked)) => asked.answer(found),
            other => panic!("{other:?}"),
        };
        assert_eq!(answer("udp", &found), "remote MOD 192.0.2.1 1194\n");
        assert_eq!(answer("udp", &found), "remote MOD 2001:db8::1 1194\n");
        assert_eq!(answer("udp4", &found), "remote MOD 192.0.2.1 1194\n");
        assert_eq!(answer("tcp4-client", &found), "remote MOD 192.0.2.2 1194\n");
        assert_eq!(
            answer("tcp6-client", &found),
            "remote MOD 2001:db8::1 1194\n"
        );
        assert_eq!(answer("udp6", &found[..1]), "remote SKIP\n");
        assert_eq!(answer("udp", &[]), "remote SKIP\n");
    }

    #[test]
    fn an_end_says_why() {
        let (mut m, mut say) = (with(None), String::new());
        m.line(
            ">LOG:1,N,AUTH: Received control message: AUTH_FAILED",
            &mut say,
        );
        assert_eq!(
            m.line(">STATE:2,EXITING,auth-failure,,,,,", &mut say),
            Some(Told::Ending(
                "AUTH: Received control message: AUTH_FAILED".to_owned()
            ))
        );
        for nonsense in [
            "",
            ">",
            ">STATE:",
            ">LOG:1",
            ">REMOTE:x,y",
            "SUCCESS: x",
            ">PASSWORD:",
        ] {
            assert_eq!(m.line(nonsense, &mut say), None, "{nonsense}");
        }
    }
}
