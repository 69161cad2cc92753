//! A tunnel through OpenVPN: supervised, and taken over at its interface.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use vpn_core::packet::PacketBatch;
use vpn_core::{
    Assigned, DownCause, DropCounters, NetworkEvent, Resources, StateWatch, TransportCapabilities,
    TransportError, TransportState, TunnelTransport, Underlay,
};

use super::credentials::Credentials;
use super::management::{Management, Told, Way};
use super::process::{Process, Start};
use super::profile::Profile;
use crate::InterfaceName;
use crate::external::{Attached, Slot};
use crate::journal::Journal;

/// First wait before a process that ended is started again; it doubles up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_secs(1);

/// Longest wait between two processes.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// How long the first attempt may take before the tunnel is down, unless said otherwise. OpenVPN
/// itself waits a minute for a server's first word.
const NO_ANSWER_AFTER: Duration = Duration::from_secs(15);

/// The least MTU, in bytes, however narrow the path or the server says it is (RFC 791: what every
/// host takes).
const NARROWEST: u16 = 576;

/// How often the path's MTU is looked at, which changes with the route to the server, and whether
/// the kernel is kept away from the interface, and what others changed of that.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// How a tunnel through OpenVPN is run.
#[derive(Clone, Debug)]
pub struct OpenVpnConfig {
    profile: Profile,
    interface: InterfaceName,
    mark: Option<u32>,
    credentials: Option<Credentials>,
    dns: Option<Vec<IpAddr>>,
    mtu: Option<u16>,
    no_answer_after: Duration,
    journal: Option<Journal>,
}

impl OpenVpnConfig {
    /// Runs this profile. `interface` is what the tunnel's interface is called; nobody else may
    /// have one of that name.
    pub const fn new(profile: Profile, interface: InterfaceName) -> Self {
        Self {
            profile,
            interface,
            mark: None,
            credentials: None,
            dns: None,
            mtu: None,
            no_answer_after: NO_ANSWER_AFTER,
            journal: None,
        }
    }

    /// Writes what to undo to a journal, so that [`recover`](fn@crate::recover) finds the process and
    /// the packet filter of its interface after we were killed.
    #[must_use]
    pub fn journal(mut self, journal: Journal) -> Self {
        self.journal = Some(journal);
        self
    }

    /// Marks its sockets, which exempts them from a capture: without, they would go into the tunnels
    /// they carry.
    #[must_use]
    pub const fn mark(mut self, mark: u32) -> Self {
        self.mark = Some(mark);
        self
    }

    /// User and password, in place of a file that the profile names.
    #[must_use]
    pub fn credentials(mut self, credentials: Credentials) -> Self {
        self.credentials = Some(credentials);
        self
    }

    /// Resolvers in place of those the server pushes.
    #[must_use]
    pub fn dns(mut self, dns: Vec<IpAddr>) -> Self {
        self.dns = Some(dns);
        self
    }

    /// MTU in place of what the server pushes or the profile says, in bytes.
    #[must_use]
    pub const fn mtu(mut self, mtu: u16) -> Self {
        self.mtu = Some(mtu);
        self
    }

    /// How long the first attempt may take before the tunnel is down; it goes on trying. Default
    /// 15 s.
    #[must_use]
    pub const fn no_answer_after(mut self, after: Duration) -> Self {
        self.no_answer_after = after;
        self
    }

    /// The MTU that is known before it connects, in bytes: what is said here, or in the profile.
    pub const fn said_mtu(&self) -> Option<u16> {
        match self.mtu {
            Some(mtu) => Some(mtu),
            None => self.profile.mtu(),
        }
    }

    /// The resolvers that are said here.
    pub fn said_dns(&self) -> Option<&[IpAddr]> {
        self.dns.as_deref()
    }

    /// What the server gave, what is said instead, and what the path leaves.
    fn instead(&self, mut assigned: Assigned, path: Option<u16>) -> Assigned {
        if let Some(dns) = &self.dns {
            assigned.dns.clone_from(dns);
        }
        let fits = path.unwrap_or(assigned.mtu).max(NARROWEST);
        let narrowest = assigned.mtu.min(fits).max(NARROWEST);
        assigned.mtu = self.mtu.unwrap_or(narrowest);
        assigned
    }
}

/// A tunnel that the distribution's `openvpn` carries.
///
/// It is up when the server accepted us, and has the addresses, resolvers, routes and MTU that the
/// server pushed. OpenVPN reconnects by itself; where it ends, it is started again after 1, 2, 4 ...
/// 60 seconds. A refusal (a wrong password, say) is final: asking again would lock the account.
#[derive(Debug)]
pub struct OpenVpnTransport {
    slot: Arc<Slot>,
    /// The network below is another one.
    moved: Arc<Notify>,
    /// The process that runs; 0 while none does.
    process: Arc<AtomicU32>,
    runner: Mutex<Option<JoinHandle<()>>>,
}

impl OpenVpnTransport {
    /// Starts it. Its task must be polled in the network namespace it is for.
    pub fn start(config: OpenVpnConfig, underlay: Arc<dyn Underlay>) -> Self {
        let slot = Arc::new(Slot::new());
        let moved = Arc::new(Notify::new());
        let process = Arc::new(AtomicU32::new(0));
        let runner = Runner {
            slot: slot.clone(),
            config,
            underlay,
            closing: slot.closing(),
            moved: Arc::clone(&moved),
            process: Arc::clone(&process),
        };
        Self {
            slot,
            runner: Mutex::new(Some(tokio::spawn(runner.run()))),
            moved,
            process,
        }
    }
}

impl Drop for OpenVpnTransport {
    fn drop(&mut self) {
        self.slot.close();
    }
}

#[async_trait]
impl TunnelTransport for OpenVpnTransport {
    fn capabilities(&self) -> TransportCapabilities {
        self.slot.capabilities()
    }

    fn state(&self) -> StateWatch {
        self.slot.watch()
    }

    fn try_recv(
        &self,
        batch: &mut PacketBatch,
        drops: &mut DropCounters,
    ) -> Result<usize, TransportError> {
        self.slot.try_recv(batch, drops)
    }

    fn try_send(
        &self,
        batch: &mut PacketBatch,
        drops: &mut DropCounters,
    ) -> Result<usize, TransportError> {
        self.slot.try_send(batch, drops)
    }

    async fn readable(&self) -> Result<(), TransportError> {
        self.slot.readable().await
    }

    async fn writable(&self) -> Result<(), TransportError> {
        self.slot.writable().await
    }

    fn resources(&self) -> Resources {
        let mut resources = self.slot.resources(&self.runner);
        let process = self.process.load(Ordering::Relaxed);
        if process != 0 {
            resources.process = Some(process);
            // The conversation, and what tells that it ended.
            resources.descriptors += 2;
        }
        resources
    }

    /// OpenVPN connects anew, at once, also where it waits before the next attempt.
    fn network_changed(&self, event: NetworkEvent) {
        if event.calls_for_reconnect() {
            self.moved.notify_one();
        } else if event == NetworkEvent::Lost && !matches!(self.slot.get(), TransportState::Down(_))
        {
            let cause = DownCause::Network("there is no network".to_owned());
            self.slot.set(TransportState::Down(cause));
        }
    }

    async fn close(&self) {
        self.slot.close();
        let runner = {
            let mut runner = self.runner.lock().unwrap_or_else(PoisonError::into_inner);
            runner.take()
        };
        if let Some(runner) = runner {
            // A panic in it ended it as well.
            let _ = runner.await;
        }
        self.slot.set(TransportState::Closed);
    }
}

/// Starts processes, one after the other, and follows what they say.
struct Runner {
    slot: Arc<Slot>,
    config: OpenVpnConfig,
    underlay: Arc<dyn Underlay>,
    closing: watch::Receiver<bool>,
    process: Arc<AtomicU32>,
    moved: Arc<Notify>,
}

/// How a process came to its end.
enum End {
    /// We were asked to close.
    Closed,
    /// It says no for good.
    Refused(String),
    /// It may work another time. `after_up`: it had been connected.
    Again { why: String, after_up: bool },
}

/// What the conversation goes on with.
enum Heard {
    Close,
    Line(Option<String>),
    /// No answer for too long.
    Nothing,
    Time,
    /// The network below is another one.
    Moved,
}

impl Runner {
    async fn run(mut self) {
        let mut wait = FIRST_WAIT;
        loop {
            let end = self.once().await;
            if let Some(attached) = self.slot.attach(None) {
                attached.detach().await;
            }
            self.slot
                .look_at_others(self.config.journal.as_ref(), &self.config.interface)
                .await;
            match end {
                End::Closed => break,
                End::Refused(why) => {
                    let cause = DownCause::Refused(why);
                    self.slot.set(TransportState::Down(cause));
                    let _ = self.closing.wait_for(|closing| *closing).await;
                    break;
                }
                End::Again { why, after_up } => {
                    let cause = DownCause::Network(why);
                    self.slot.set(TransportState::Down(cause));
                    if after_up {
                        wait = FIRST_WAIT;
                    }
                }
            }
            tokio::select! {
                _ = self.closing.wait_for(|closing| *closing) => break,
                () = tokio::time::sleep(wait) => wait = (wait * 2).min(LONGEST_WAIT),
                // What failed on the old network says nothing about this one.
                () = self.moved.notified() => wait = FIRST_WAIT,
            }
        }
        self.slot.set(TransportState::Closed);
    }

    /// One process, from its start to its end.
    async fn once(&mut self) -> End {
        let again = |why: String| End::Again {
            why,
            after_up: false,
        };
        let start = Start {
            profile: &self.config.profile,
            interface: &self.config.interface,
            patience: self.config.no_answer_after,
            journal: self.config.journal.as_ref(),
            mark: self.config.mark,
            asks: self.config.credentials.is_some() || self.config.profile.asks_password(),
        };
        let started = tokio::select! {
            _ = self.closing.wait_for(|closing| *closing) => return End::Closed,
            started = Process::start(&start) => started,
        };
        let mut process = match started {
            Ok(process) => process,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return End::Refused("the program openvpn is missing: install openvpn".to_owned());
            }
            Err(error) => return again(format!("openvpn does not start: {error}")),
        };
        let running = &self.process;
        running.store(process.id(), std::sync::atomic::Ordering::Relaxed);
        let end = self.converse(&mut process).await;
        let running = &self.process;
        running.store(0, std::sync::atomic::Ordering::Relaxed);
        process.end().await;
        end
    }

    /// The tunnel is up with what it was given, as far as that fits the path.
    fn up(&self, assigned: &Assigned, way: Way) {
        let path = way.server.filter(|_| way.datagrams).and_then(|server| {
            let headers = if server.is_ipv4() { 20 + 8 } else { 40 + 8 };
            let path = self.underlay.mtu_to(server)?;
            Some(path.saturating_sub(headers + way.overhead))
        });
        let assigned = self.config.instead(assigned.clone(), path);
        self.slot.up(assigned);
    }

    async fn converse(&mut self, process: &mut Process) -> End {
        let mtu = self.config.profile.mtu();
        let mut talk = Management::new(self.config.credentials.clone(), mtu);
        let mut after_up = false;
        let mut say = Management::GREETING.to_owned();
        let mut given = None;
        let mut look = tokio::time::interval(LOOK_EVERY);
        let patience = tokio::time::Instant::now() + self.config.no_answer_after;
        loop {
            let connecting = self.slot.get() == TransportState::Connecting;
            if !say.is_empty() && process.say(&say).await.is_err() {
                let why = "openvpn is gone".to_owned();
                return End::Again { why, after_up };
            }
            say.clear();
            let heard = tokio::select! {
                _ = self.closing.wait_for(|closing| *closing) => Heard::Close,
                line = process.line() => Heard::Line(line),
                () = tokio::time::sleep_until(patience), if connecting => Heard::Nothing,
                _ = look.tick() => Heard::Time,
                () = self.moved.notified() => Heard::Moved,
            };
            let line = match heard {
                Heard::Close => return End::Closed,
                Heard::Moved => {
                    say.push_str(Management::RECONNECT);
                    continue;
                }
                Heard::Line(Some(line)) => line,
                Heard::Line(None) => {
                    if let Some(why) = talk.rejected() {
                        return End::Refused(why);
                    }
                    let why = "openvpn ended".to_owned();
                    return End::Again { why, after_up };
                }
                Heard::Nothing => {
                    // It goes on trying; who waits for it should not.
                    let cause = DownCause::NoAnswer;
                    self.slot.set(TransportState::Down(cause));
                    continue;
                }
                Heard::Time => {
                    self.slot
                        .look_at_others(self.config.journal.as_ref(), &self.config.interface)
                        .await;
                    if let Some(attached) = self.slot.attached()
                        && let Err(error) = attached.proven().await
                    {
                        let why = error.to_string();
                        return End::Again { why, after_up };
                    }
                    if let (Some((assigned, way)), TransportState::Up(_)) =
                        (&given, self.slot.get())
                    {
                        self.up(assigned, *way);
                    }
                    continue;
                }
            };
            match talk.line(&line, &mut say) {
                None => {}
                Some(Told::Lost(cause)) => self.slot.set(TransportState::Down(cause)),
                Some(Told::WhereIs(asked)) => {
                    // Over sockets of the underlay: the program's own look-up would be captured.
                    let found = tokio::select! {
                        _ = self.closing.wait_for(|closing| *closing) => return End::Closed,
                        found = self.underlay.resolve(&asked.host, asked.port) => found,
                    };
                    match found {
                        Ok(all) => say.push_str(&asked.answer(&all)),
                        Err(error) => {
                            say.push_str(&asked.answer(&[]));
                            let cause = DownCause::Resolve(error.to_string());
                            self.slot.set(TransportState::Down(cause));
                        }
                    }
                }
                Some(Told::Connected(assigned, way)) => {
                    // Given another address, it makes its interface anew: the same name, another
                    // index. It is down until it is taken over.
                    let index = crate::device::sys::index_of(self.config.interface.as_str());
                    let former = self.slot.attached();
                    if let Some(former) = former.filter(|it| Some(it.index()) != index) {
                        self.slot.attach(None);
                        former.detach().await;
                    }
                    if self.slot.attached().is_none() {
                        let journal = self.config.journal.as_ref();
                        match Attached::open(&self.config.interface, journal).await {
                            Ok(attached) => drop(self.slot.attach(Some(Arc::new(attached)))),
                            Err(error) => {
                                let why = error.to_string();
                                return End::Again { why, after_up };
                            }
                        }
                    }
                    after_up = true;
                    self.up(&assigned, way);
                    given = Some((assigned, way));
                }
                Some(Told::Refused(why)) => return End::Refused(why),
                Some(Told::Ending(why)) if why.contains("AUTH_FAILED") => return End::Refused(why),
                Some(Told::Ending(why)) => return End::Again { why, after_up },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_server_makes_the_mtu_unusable() {
        let profile = Profile::parse(b"remote a\n", std::path::Path::new("/p"));
        let name = InterfaceName::new("ovpn-x").expect("a name");
        let config = OpenVpnConfig::new(profile.expect("good"), name);
        let mtu = |mtu, path| {
            let assigned = Assigned {
                mtu,
                ..Assigned::default()
            };
            config.instead(assigned, path).mtu
        };
        // To the router 0 is no limit at all.
        assert_eq!(mtu(0, None), NARROWEST);
        assert_eq!(mtu(60, Some(1400)), NARROWEST);
        assert_eq!(mtu(1500, Some(1400)), 1400);
        assert_eq!(mtu(1500, Some(100)), NARROWEST);
    }
}
