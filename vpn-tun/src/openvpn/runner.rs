//! Starts processes, one after the other, and follows what they say.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use vpn_core::{Assigned, DownCause, TransportState, Underlay};

use super::config::OpenVpnConfig;
use super::management::{Management, Told, Way};
use super::process::{LONGEST_RETRY, Process, Start};
use crate::external::{Attached, Slot};

/// First wait before a process that ended is started again; it doubles up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_secs(1);

/// Longest wait between two processes.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// How often the path's MTU is looked at, which changes with the route to the server, and whether
/// the kernel is kept away from the interface, and what others changed of that.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// The task of a tunnel.
pub(super) struct Runner {
    pub(super) slot: Arc<Slot>,
    pub(super) config: OpenVpnConfig,
    pub(super) underlay: Arc<dyn Underlay>,
    pub(super) closing: watch::Receiver<bool>,
    /// The process that runs; 0 while none does.
    pub(super) process: Arc<AtomicU32>,
    /// The network below is another one.
    pub(super) moved: Arc<Notify>,
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
    /// It has waited long enough.
    Held,
}

/// When it may try again.
#[derive(Clone, Copy)]
enum Hold {
    /// It does not wait for us.
    None,
    /// It was told to connect anew: it need not wait.
    NotNow,
    Until(tokio::time::Instant),
}

impl Runner {
    pub(super) async fn run(mut self) {
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
        let credentials = self.config.credentials.clone();
        let mut talk = Management::new(credentials, &self.config.profile);
        let mut after_up = false;
        let mut say = Management::GREETING.to_owned();
        let mut given = None;
        let mut look = tokio::time::interval(LOOK_EVERY);
        let patience = tokio::time::Instant::now() + self.config.no_answer_after;
        let mut hold = Hold::None;
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
                () = released(hold) => Heard::Held,
                () = self.moved.notified() => Heard::Moved,
            };
            let line = match heard {
                Heard::Close => return End::Closed,
                Heard::Held => {
                    hold = Hold::None;
                    say.push_str(Management::TRY);
                    continue;
                }
                // What it waits for was on the old network.
                Heard::Moved if matches!(hold, Hold::Until(_)) => {
                    hold = Hold::None;
                    say.push_str(Management::TRY);
                    continue;
                }
                Heard::Moved => {
                    hold = Hold::NotNow;
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
                Some(Told::Holds(_)) if matches!(hold, Hold::NotNow) => {
                    hold = Hold::None;
                    say.push_str(Management::TRY);
                }
                Some(Told::Holds(wait)) => {
                    let now = tokio::time::Instant::now();
                    hold = Hold::Until(now + wait.min(LONGEST_RETRY));
                }
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

/// When a hold ends; never, if there is none.
async fn released(hold: Hold) {
    match hold {
        Hold::Until(end) => tokio::time::sleep_until(end).await,
        Hold::None | Hold::NotNow => std::future::pending().await,
    }
}
