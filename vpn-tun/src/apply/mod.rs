//! Makes the system look as a plan says, and captures traffic so that it fails closed.
//!
//! # The capture
//!
//! A policy rule per family sends every packet that does not carry the mark to a table of ours;
//! the `local` table is asked before, so loopback and the machine's own addresses keep working.
//! That table holds two default routes: one to the device, and a worse one that is a blackhole.
//! While the device exists, packets go to it. When it goes, its routes go with it, the blackhole
//! is what is left, and nothing goes direct. The order of installing is blackhole, device, rule (with
//! only the blackhole behind a rule, the kernel takes answers to our own sockets for spoofed: their
//! way back would lead nowhere); the order of undoing is rule, then the rest. A packet finds the host's former routes, the
//! blackhole or the device at every moment, and never the former routes after the first rule.
//!
//! A second rule behind the first blocks what the table left undecided (a socket bound to the uplink).
//!
//! Marked sockets don't match the rules and are routed as the host always did.
//!
//! Before the capture stand the rules of the plan's bypass list ([`InterfacePlan::bypass`]), and one
//! that routes what comes out of the device by the main table: answers to forwarded traffic. Both
//! go when the applier is released, whatever stays.
//!
//! # The guard
//!
//! Where the program `nft` is there, a packet filter keeps the device's addresses from answering on
//! other interfaces, and with [`CaptureConfig::lockdown`] drops what the capture cannot stop.

mod agreed;
mod capture;
pub(crate) mod config;
mod guard;
mod held;
mod leftover;
pub(crate) mod netlink;
pub(crate) mod policy;
pub(crate) mod record;
mod rp_filter;

use std::path::Path;

use ipnet::IpNet;
use vpn_core::{Bypass, Family, InterfacePlan, PlanChange};

pub use config::{
    ApplyError, CaptureConfig, DEFAULT_MARK, DEFAULT_PRIORITY, DEFAULT_TABLE, MAX_BYPASS, OnExit,
    Step,
};

use crate::device::sys::index_of;
use crate::foreign::ForeignChange;
use crate::journal::Journal;
use crate::name::InterfaceName;
use crate::nft::{NftError, Tables};
use crate::sysctl::Changed;
use guard::Guarded;
pub(crate) use leftover::{Removed, remove_capture, remove_from_interfaces, remove_settings};
use netlink::{Netlink, Target};
use record::OnInterface;

/// The kernel's main routing table.
const MAIN_TABLE: u32 = 254;

/// Exists where the kernel has IPv6. `/proc/net` would be the namespace of the main thread.
const IF_INET6: &str = "/proc/thread-self/net/if_inet6";

/// Whose settings and tables ours are, in the journal.
pub(crate) const OWNER: &str = "capture";

/// Applies plans to one interface.
///
/// Every step is one netlink request and idempotent. Dropping an applier undoes nothing: what
/// captures goes on capturing. Dropping a future in the middle loses nothing either: the next
/// [`apply`](Self::apply) repeats what may not have been done.
///
/// It works in the network namespace of the thread that made it, and its futures must be polled in
/// that namespace too: `/proc/sys/net` shows the namespace of the thread that reads it.
#[derive(Debug)]
pub struct Applier {
    netlink: Netlink,
    name: InterfaceName,
    index: u32,
    capture: Option<CaptureConfig>,
    journal: Option<Journal>,
    /// What the kernel has, or may have if `dirty`. Resolvers are among its routes.
    applied: InterfacePlan,
    dirty: bool,
    /// A change of the bypass list was not seen through.
    unsure_of_bypass: bool,
    /// The capture leads to the device.
    leads: bool,
    /// The kernel may have dropped the device's routes of IPv4.
    flushed: bool,
    /// Reverse-path filtering, once it was looked at.
    settings: Option<Changed>,
    /// What the packet filter guards, once it does.
    guarded: Option<Guarded>,
    tables: Tables,
    /// What was done to the interface, as the journal has it.
    on_interface: OnInterface,
}

impl Applier {
    /// An applier for this interface. With a capture, the plan's routes go to the capture's table;
    /// without, to the main table.
    ///
    /// # Errors
    ///
    /// [`ApplyError::Config`] and [`ApplyError::NoInterface`]; nothing is changed.
    pub fn new(
        interface: &InterfaceName,
        capture: Option<CaptureConfig>,
    ) -> Result<Self, ApplyError> {
        if let Some(capture) = &capture {
            capture.check()?;
        }
        let index = index_of(interface.as_str())
            .ok_or_else(|| ApplyError::NoInterface(interface.to_string()))?;
        Ok(Self {
            netlink: Netlink::open()?,
            name: interface.clone(),
            index,
            capture,
            journal: None,
            applied: InterfacePlan::default(),
            dirty: false,
            unsure_of_bypass: false,
            leads: false,
            flushed: false,
            settings: None,
            guarded: None,
            tables: Tables::new(None, OWNER),
            on_interface: OnInterface::default(),
        })
    }

    /// Writes what to undo to a journal before each change.
    #[must_use]
    pub fn with_journal(mut self, journal: Journal) -> Self {
        self.tables = Tables::new(Some(journal.clone()), OWNER);
        self.journal = Some(journal);
        self
    }

    /// The interface.
    pub const fn interface(&self) -> &InterfaceName {
        &self.name
    }

    /// Begins to capture: from here on, unmarked packets go to the device or nowhere. Without a
    /// capture configured, only brings the device up. What a former run left is taken over
    /// without a gap.
    ///
    /// # Errors
    ///
    /// What was installed stays, so that nothing is opened by a failure:
    /// [`disengage`](Self::disengage) with [`OnExit::Open`] undoes it.
    pub async fn engage(&mut self) -> Result<(), ApplyError> {
        let Some(capture) = self.capture.clone() else {
            return self.netlink.link_up(self.index).await;
        };
        let journal = self.journal.as_ref();
        record::note_capture(journal, record::CAPTURE, &capture)?;
        let mut settings = Changed::new(journal.cloned(), OWNER)?;
        let loosened = rp_filter::loosen(&mut settings);
        self.settings = Some(settings);
        loosened?;
        let families = capture::blackholes(&self.netlink, &capture).await?;
        self.netlink.link_up(self.index).await?;
        self.leads = true;
        capture::lead_to(&self.netlink, &capture, self.index).await?;
        capture::rules(&self.netlink, &capture, &families, &self.name).await?;
        self.applied.bypass.clear();
        let plan = self.applied.clone();
        self.guarded = None;
        self.guard(&plan).await
    }

    /// Makes addresses, routes and MTU of the interface as planned. What both plans have is not
    /// touched; what is new comes first, what is gone goes last.
    ///
    /// The plan's resolvers are routed to the device. A default route in the plan is the capture's
    /// own, and is left to it. Where the device cannot have IPv6, its part of the plan is left out.
    ///
    /// # Errors
    ///
    /// After a failed step the former plan is restored as far as possible; the capture stays. Around the
    /// device goes only what both plans let around: whoever decides the rest does so by the new one.
    pub async fn apply(&mut self, plan: &InterfacePlan) -> Result<(), ApplyError> {
        let next = self.effective(plan);
        let before = self.applied.clone();
        let result = self.go_to(&next).await;
        if result.is_err() {
            let mut back = before;
            back.bypass = agreed::agreed(&back.bypass, &next.bypass);
            // By itself and first: what failed may fail again, before the list's turn.
            if let Err(error) = self.set_bypass(back.bypass.clone()).await {
                tracing::warn!(interface = %self.name, "the former bypass list was not closed");
                tracing::debug!(interface = %self.name, %error, "the former bypass list was not closed");
            }
            // The first error says more than one of the way back.
            if let Err(error) = self.go_to(&back).await {
                // The step names an address.
                tracing::warn!(interface = %self.name, "the former plan was not restored");
                tracing::debug!(interface = %self.name, %error, "the former plan was not restored");
            }
        }
        result
    }

    /// Undoes what this applier did. Idempotent, and fine when the device is gone already.
    ///
    /// With [`OnExit::Block`] rule and blackhole stay, and lockdown without what it lets around;
    /// with [`OnExit::Open`] nothing does.
    ///
    /// # Errors
    ///
    /// [`ApplyError`]; what comes after the failed step is still there. Call it again.
    pub async fn disengage(&mut self, on_exit: OnExit) -> Result<(), ApplyError> {
        self.leads = false;
        if let Some(capture) = &self.capture {
            match on_exit {
                OnExit::Open => {
                    capture::remove(&self.netlink, capture).await?;
                    self.applied.bypass.clear();
                }
                OnExit::Block => {
                    capture::lead_nowhere(&self.netlink, capture, self.index).await?;
                    capture::close_bypass(&self.netlink, capture).await?;
                    self.applied.bypass.clear();
                }
            }
        }
        self.go_to(&InterfacePlan::default()).await?;
        let capture = self.capture.clone();
        if let (Some(capture), OnExit::Open) = (&capture, on_exit) {
            remove_guard(capture).await?;
            self.tables.gone(&guard::tables(capture))?;
            self.guarded = None;
        }
        self.restore_interface().await?;
        if let Some(settings) = &mut self.settings {
            for change in settings.restore::<ApplyError>()?.left {
                tracing::warn!("left as somebody else made it: {change}");
            }
        }
        match &capture {
            // What still blocks is still to be undone.
            Some(capture) if !capture::is_there(&self.netlink, capture).await? => {
                let journal = self.journal.as_ref();
                Ok(record::forget_capture(journal, record::CAPTURE, capture)?)
            }
            _ => Ok(()),
        }
    }

    /// Looks whether somebody else changed what was applied: addresses, routes, rules, packet filter,
    /// reverse-path filtering. It stays as they made it; a later plan changes only what differs
    /// between the plans. The journal is told as well, if there is one.
    ///
    /// Cheap enough for every other second. Not while another call is under way.
    ///
    /// # Errors
    ///
    /// [`ApplyError::Netlink`] if the kernel does not say.
    pub async fn look(&mut self) -> Result<Vec<ForeignChange>, ApplyError> {
        let mut found = self.netlink.missing().await?;
        found.extend(self.settings.iter().flat_map(Changed::look));
        found.extend(self.tables.look().await);
        if let Some(journal) = &self.journal {
            journal.noticed(OWNER, found.clone());
        }
        Ok(found)
    }

    /// Undoes what a former run left, also one that was killed: rules, routes, packet filter,
    /// reverse-path filtering, and what [`crate::DirectTransport`] set up. [`crate::recover()`] undoes
    /// the rest too, and says what it did.
    ///
    /// # Errors
    ///
    /// [`ApplyError`], also if the journal's entry cannot be read; the entry stays.
    pub async fn remove_leftovers(
        capture: &CaptureConfig,
        journal: Option<&Journal>,
    ) -> Result<(), ApplyError> {
        capture.check()?;
        leftover::remove_capture(capture, journal).await?;
        crate::direct::remove_leftovers(capture, journal).await?;
        leftover::remove_settings(journal)?;
        Ok(())
    }

    /// The plan as the kernel sees it: resolvers are host routes.
    fn effective(&self, plan: &InterfacePlan) -> InterfacePlan {
        let mut next = plan.clone();
        next.routes
            .extend(next.dns.iter().map(|address| IpNet::from(*address)));
        next.bypass = policy::resolvers_first(&next.dns, &next.bypass);
        next.dns.clear();
        next.routes = next.routes.iter().map(IpNet::trunc).collect();
        if self.capture.is_some() {
            next.routes.retain(|route| route.prefix_len() > 0);
        }
        if next.mtu == 0 {
            next.mtu = self.applied.mtu;
        }
        if !self.carries_ipv6(next.mtu) {
            tracing::debug!(interface = %self.name, "no IPv6 on the device: left out of the plan");
            next.addresses.retain(|net| net.addr().is_ipv4());
            next.routes.retain(|net| net.addr().is_ipv4());
        }
        next
    }

    /// Whether the device can have IPv6: in the kernel, not switched off, and an MTU of at least
    /// 1280 bytes (RFC 8200 §5).
    fn carries_ipv6(&self, mtu: u16) -> bool {
        const MIN_MTU: u16 = 1280;
        let setting = format!("/proc/sys/net/ipv6/conf/{}/disable_ipv6", self.name);
        match std::fs::read_to_string(setting) {
            Ok(disabled) => disabled.trim() == "0",
            // Also missing while the present MTU is too small, which this plan may change.
            Err(_) => Path::new(IF_INET6).exists() && mtu >= MIN_MTU,
        }
    }

    async fn go_to(&mut self, next: &InterfacePlan) -> Result<(), ApplyError> {
        let changes = if self.dirty {
            // Unsure what was done: everything that should be there is added again.
            let gone = self.applied.changes_to(next);
            let removals = |change: &PlanChange| {
                matches!(
                    change,
                    PlanChange::RemoveAddress(_) | PlanChange::RemoveRoute(_)
                )
            };
            let mut all = InterfacePlan::default().changes_to(next);
            all.extend(gone.into_iter().filter(removals));
            all.retain(|change| !matches!(change, PlanChange::SetBypass(_)));
            all.push(PlanChange::SetBypass(next.bypass.clone()));
            all
        } else {
            self.applied.changes_to(next)
        };
        self.dirty = true;
        self.note_interface(next).await?;
        // An address is guarded before it is there and after it is gone, and what may go around is
        // let through by filter and rules or not at all.
        let mut both = next.clone();
        both.addresses.extend(&self.applied.addresses);
        self.guard(&both).await?;
        for change in changes {
            self.step(change).await?;
        }
        self.routes_again().await?;
        self.guard(next).await?;
        self.dirty = false;
        Ok(())
    }

    /// With a device's last address of IPv4 the kernel drops its routes of IPv4, in all tables: those
    /// that stay planned are made again. Meanwhile the blackhole is there.
    async fn routes_again(&mut self) -> Result<(), ApplyError> {
        if !self.flushed {
            return Ok(());
        }
        let table = self.capture.as_ref().map_or(MAIN_TABLE, |c| c.table);
        for &net in self
            .applied
            .routes
            .iter()
            .filter(|net| net.addr().is_ipv4())
        {
            let device = Target::Device(self.index);
            self.netlink
                .add_route(Step::AddRoute(net), net, table, device)
                .await?;
        }
        if let Some(capture) = self.capture.as_ref().filter(|_| self.leads) {
            capture::lead_to(&self.netlink, capture, self.index).await?;
        }
        self.flushed = false;
        Ok(())
    }

    /// Lets the packet filter guard what this plan has. Without lockdown it is a second line, and
    /// nothing fails without it.
    async fn guard(&mut self, plan: &InterfacePlan) -> Result<(), ApplyError> {
        let Some(capture) = &self.capture else {
            return Ok(());
        };
        let wanted = Guarded::new(plan, capture.lockdown);
        if self.guarded.as_ref() == Some(&wanted) {
            return Ok(());
        }
        let tables = guard::tables(capture);
        if !wanted.is_empty() {
            self.tables.note(&tables)?;
        }
        match guard::install(capture, &self.name, &wanted).await {
            Err(error) if capture.lockdown => return Err(ApplyError::Guard(error)),
            Err(error) => {
                // Once: what does not work now does not work with the next plan.
                if self.guarded.is_none() {
                    tracing::warn!(%error, "the device's addresses may answer on other interfaces");
                }
            }
            Ok(()) if wanted.is_empty() => self.tables.gone(&tables)?,
            Ok(()) => self.tables.made(&tables).await,
        }
        self.guarded = Some(wanted);
        Ok(())
    }

    /// Writes down what this plan does to the interface, beside what was done.
    async fn note_interface(&mut self, next: &InterfacePlan) -> Result<(), ApplyError> {
        if self.journal.is_none() {
            return Ok(());
        }
        let mut noted = self.on_interface.clone();
        noted.addresses = self
            .applied
            .addresses
            .union(&next.addresses)
            .copied()
            .collect();
        if noted.index == 0 {
            noted.index = self.index;
            let links = self.netlink.links().await?;
            let own = links.into_iter().find(|link| link.0 == self.index);
            noted.former_mtu = own.map_or(0, |link| link.2);
        }
        if next.mtu != 0 {
            noted.mtu = next.mtu;
        }
        if noted != self.on_interface {
            noted.note(self.journal.as_ref(), &self.name)?;
            self.on_interface = noted;
        }
        Ok(())
    }

    /// Brings the interface's MTU back, if there is still one.
    async fn restore_interface(&mut self) -> Result<(), ApplyError> {
        leftover::restore_mtu(&self.netlink, &self.on_interface).await?;
        OnInterface::forget(self.journal.as_ref(), self.name.as_str())?;
        self.on_interface = OnInterface::default();
        Ok(())
    }

    async fn set_bypass(&mut self, list: Vec<Bypass>) -> Result<(), ApplyError> {
        let Some(capture) = &self.capture else {
            self.applied.bypass = list;
            return Ok(());
        };
        if self.unsure_of_bypass {
            // Some of its rules may be there: all of them go, and everything is captured meanwhile.
            capture::close_bypass(&self.netlink, capture).await?;
            self.applied.bypass.clear();
        }
        self.unsure_of_bypass = true;
        capture::change_bypass(&self.netlink, capture, &self.applied.bypass, &list).await?;
        self.unsure_of_bypass = false;
        self.applied.bypass = list;
        Ok(())
    }

    /// One change. What is added is noted before, what is removed after: what is noted is never
    /// less than what the kernel has.
    async fn step(&mut self, change: PlanChange) -> Result<(), ApplyError> {
        let captured = self.capture.is_some();
        let table = self.capture.as_ref().map_or(MAIN_TABLE, |c| c.table);
        let device = Target::Device(self.index);
        match change {
            PlanChange::AddAddress(net) => {
                self.applied.addresses.insert(net);
                // Under capture a subnet route in the main table would only lead marked packets
                // astray, into the tunnel they are to carry.
                self.netlink.add_address(self.index, net, !captured).await
            }
            PlanChange::RemoveAddress(net) => {
                self.netlink.remove_address(self.index, net).await?;
                self.applied.addresses.remove(&net);
                let is_v4 = |net: &IpNet| net.addr().is_ipv4();
                self.flushed |= is_v4(&net) && !self.applied.addresses.iter().any(is_v4);
                Ok(())
            }
            PlanChange::AddRoute(net) => {
                self.applied.routes.insert(net);
                self.netlink
                    .add_route(Step::AddRoute(net), net, table, device)
                    .await
            }
            PlanChange::RemoveRoute(net) => {
                self.netlink.remove_route(net, table, device).await?;
                self.applied.routes.remove(&net);
                Ok(())
            }
            PlanChange::SetMtu(mtu) => {
                self.netlink.set_mtu(self.index, mtu).await?;
                self.applied.mtu = mtu;
                Ok(())
            }
            PlanChange::SetDns(_) => Ok(()),
            PlanChange::SetBypass(list) => self.set_bypass(list).await,
        }
    }
}

/// Without the program there is nothing of ours to remove: nobody but it could have made it.
async fn remove_guard(capture: &CaptureConfig) -> Result<(), ApplyError> {
    match guard::remove(capture).await {
        Err(NftError::Missing) => Ok(()),
        // A kernel without the packet filter refuses also what isn't there.
        Err(error) if !capture.lockdown => {
            tracing::warn!(%error, "the packet filter was not asked for and does not work here");
            Ok(())
        }
        result => result.map_err(ApplyError::Guard),
    }
}

/// The families a capture is about.
fn families(capture: &CaptureConfig) -> &'static [Family] {
    families_of(capture.ipv6)
}

/// IPv4, and IPv6 if it is wanted and there.
pub(crate) fn families_of(ipv6: bool) -> &'static [Family] {
    if ipv6 && Path::new(IF_INET6).exists() {
        &[Family::V4, Family::V6]
    } else {
        &[Family::V4]
    }
}
