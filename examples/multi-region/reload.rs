//! `multi-region reload` and SIGHUP: the configuration is read and checked again, and what can
//! change at run time is put in force.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::{Mutex, Notify};
use vpn_core::{TunnelId, TunnelTransport};
use vpn_routing::engine::EngineHandle;
use vpn_tun::{CaptureConfig, DirectConfig, Journal, LinuxTun, MarkedUnderlay};

use crate::config::{Direct, Offload, OnExit};
use crate::direct;
use crate::error::{Error, chain};
use crate::kept::Kept;
use crate::plan::Loaded;
use crate::policy::Policy;
use crate::provider::Provider;
use crate::system::SystemState;

/// Where a key begins that can change at run time. Rules are watched and need no reload.
const LIVE: [&str; 5] = ["default", "direct", "on_exit", "tunnel.", "group."];

/// Can be switched at run time, if the device was made with it.
const OFFLOAD: &str = "interface.offload";

/// Keys of a tunnel that are put in force without connecting anew.
const SOFT: [&str; 2] = ["map", "routes"];

/// Puts a changed configuration in force. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Reload {
    path: PathBuf,
    engine: EngineHandle,
    underlay: Arc<MarkedUnderlay>,
    device: Arc<LinuxTun>,
    capture: CaptureConfig,
    direct: DirectConfig,
    journal: Journal,
    policy: Policy,
    recompile: Arc<Notify>,
    kept: Kept,
    /// What is in force; held while it changes.
    current: Arc<Mutex<Current>>,
}

#[derive(Debug)]
struct Current {
    keys: BTreeMap<String, String>,
    prints: BTreeMap<String, u64>,
    on_exit: OnExit,
}

impl Reload {
    pub(crate) fn new(
        path: PathBuf,
        loaded: &Loaded,
        engine: EngineHandle,
        system: &SystemState,
        policy: Policy,
        recompile: Arc<Notify>,
        kept: Kept,
    ) -> Self {
        let current = Current {
            keys: loaded.config.keys(),
            prints: loaded.prints.clone(),
            on_exit: loaded.config.on_exit,
        };
        Self {
            path,
            engine,
            underlay: Arc::clone(system.underlay()),
            device: Arc::clone(system.device()),
            capture: system.capture().clone(),
            direct: system.direct(),
            journal: system.journal().clone(),
            policy,
            recompile,
            kept,
            current: Arc::new(Mutex::new(current)),
        }
    }

    /// What becomes of the system when the daemon ends.
    pub(crate) async fn on_exit(&self) -> OnExit {
        self.current.lock().await.on_exit
    }

    /// For a signal: what happened is logged.
    pub(crate) async fn by_signal(&self) {
        match self.reload().await {
            Ok(done) => tracing::info!(%done, "configuration read again"),
            Err(error) => {
                let error = chain(&error);
                tracing::error!(error, "the configuration stays as it was");
            }
        }
    }

    /// For the control socket.
    pub(crate) async fn answer(&self) -> Value {
        // In a task of its own: a caller that waits no longer does not leave it half way.
        let reload = self.clone();
        let done = tokio::spawn(async move { reload.reload().await }).await;
        let done = done.unwrap_or_else(|panic| Err(crate::error::system("reloading")(panic)));
        done.unwrap_or_else(|error| json!({ "error": chain(&error) }))
    }

    /// Reads and checks everything before anything changes. Answers which keys are in force now,
    /// and which need a restart.
    async fn reload(&self) -> Result<Value, Error> {
        let mut current = self.current.lock().await;
        let path = self.path.clone();
        let loaded = tokio::task::spawn_blocking(move || {
            let loaded = Loaded::read(&path)?;
            // Judged by the names of the new configuration.
            let rules = loaded.current_rules()?;
            let direct = loaded.direct_asked_by(rules.iter().map(|(_, rules)| rules));
            Ok::<_, Error>((loaded, direct))
        });
        let (loaded, direct) = loaded
            .await
            .map_err(crate::error::system("reading the configuration"))??;
        let keys = loaded.config.keys();
        let mut changed = differing(&current.keys, &keys);
        // A provider's file may have changed under the same name.
        for (key, print) in &loaded.prints {
            if current.prints.get(key).is_some_and(|old| old != print) {
                changed.insert(key.clone());
            }
        }
        let live = |key: &String| {
            // A device that was made without offload stays so.
            LIVE.iter().any(|start| key.starts_with(start))
                || key == OFFLOAD && self.device.has_offload()
        };
        let (applied, restart): (BTreeSet<_>, BTreeSet<_>) = changed.into_iter().partition(live);
        if let Some(asked_by) = direct {
            self.open_direct(&asked_by).await?;
        }
        self.apply(&loaded, &applied).await?;
        if applied.contains(OFFLOAD) {
            let wanted = loaded.config.interface.offload == Offload::Auto;
            self.device
                .set_offload(wanted)
                .map_err(crate::error::system("cannot switch offload"))?;
        }
        current.on_exit = loaded.config.on_exit;
        // What needs a restart is still as it was, and is told again next time.
        current.keys.retain(|key, _| !live(key));
        current
            .keys
            .extend(keys.into_iter().filter(|(key, _)| live(key)));
        current.prints = loaded.prints;
        Ok(json!({ "applied": applied, "restart": restart }))
    }

    /// Opens the way past the tunnels when a rule in force asks for it: those of etcd may come long after
    /// the start.
    ///
    /// # Errors
    ///
    /// It cannot be opened; the rule blocks what it matches. Call it again.
    pub(crate) async fn open_when_asked(&self) -> Result<(), Error> {
        let mut waiting = self.policy.waiting();
        loop {
            let asked_by = waiting.borrow_and_update().clone();
            if let Some(asked_by) = asked_by {
                // A reload may open it as well.
                let _current = self.current.lock().await;
                self.open_direct(&asked_by).await?;
                self.recompile.notify_one();
            }
            // Fails only if the sender is gone, and `self` holds it.
            if waiting.changed().await.is_err() {
                return Ok(());
            }
        }
    }

    /// Opens the way past the tunnels, if there is none. Rules have to be compiled anew to use it.
    async fn open_direct(&self, asked_by: &str) -> Result<(), Error> {
        if self.policy.get().direct.is_some() {
            return Ok(());
        }
        let transport = direct::open(self.direct.clone(), asked_by).await?;
        let id = self.engine.add_tunnel(direct::NAME, transport).await?;
        self.engine
            .set_tunnel_options(id, direct::options())
            .await?;
        self.policy.change(|known| known.direct = Some(id));
        tracing::info!("the way past the tunnels is open");
        Ok(())
    }

    async fn apply(&self, loaded: &Loaded, changed: &BTreeSet<String>) -> Result<(), Error> {
        let touched = |name: &String| {
            let start = format!("tunnel.{name}.");
            let own = changed.iter().filter_map(|key| key.strip_prefix(&start));
            own.into_iter().any(|key| !SOFT.contains(&key))
        };
        let mut tunnels = self.policy.get().tunnels;
        // Made before anything is taken away: one that cannot be made changes nothing.
        let mut made = Vec::new();
        for (name, provider) in &loaded.tunnels {
            let there = tunnels.contains_key(name);
            // Under another name it may be the interface of one that goes.
            let early = !there && !provider.is_taken_over();
            if early || (there && touched(name) && !provider.is_exclusive()) {
                made.push((name, self.start(loaded, name, provider)?));
            }
        }
        let gone = |name: &String| !loaded.tunnels.contains_key(name) || touched(name);
        let gone: Vec<String> = tunnels.keys().filter(|name| gone(name)).cloned().collect();
        if !gone.is_empty() {
            // No group may name a tunnel that goes; rules that name a group block meanwhile.
            let rest = |name: &String| !gone.contains(name);
            let rest: BTreeMap<String, TunnelId> = tunnels
                .iter()
                .filter(|(name, _)| rest(name))
                .map(|(name, id)| (name.clone(), *id))
                .collect();
            self.engine.set_groups(Vec::new()).await?;
            for name in &gone {
                if let Some(id) = tunnels.get(name) {
                    self.engine.remove_tunnel(*id).await?;
                }
            }
            tunnels = rest;
        }
        for (name, provider) in &loaded.tunnels {
            // Its port, or its interface, is free only now.
            let new = provider.is_taken_over() && !tunnels.contains_key(name);
            if new || (gone.contains(name) && provider.is_exclusive()) {
                made.push((name, self.start(loaded, name, provider)?));
            }
        }
        for (name, transport) in made {
            let id = self.engine.add_tunnel(name, transport).await?;
            tunnels.insert(name.clone(), id);
        }
        for (name, said) in &loaded.config.tunnel {
            if let Some(&id) = tunnels.get(name) {
                self.engine.set_tunnel_options(id, said.options()).await?;
                self.engine
                    .set_route_policy(id, said.route_policy())
                    .await?;
            }
        }
        let ids = self.engine.set_groups(loaded.groups(&tunnels)).await?;
        let groups = loaded.config.group.keys().cloned().zip(ids).collect();
        self.policy.change(|known| {
            known.tunnels = tunnels;
            known.groups = groups;
            known.on_demand = loaded.config.direct == Direct::Auto;
            known.default.clone_from(&loaded.config.default);
        });
        self.recompile.notify_one();
        Ok(())
    }

    fn start(
        &self,
        loaded: &Loaded,
        name: &str,
        provider: &Provider,
    ) -> Result<Arc<dyn TunnelTransport>, Error> {
        let said = &loaded.config.tunnel[name];
        let transport = provider.start(
            name,
            said,
            &self.underlay,
            &self.capture,
            &self.journal,
            &self.kept,
        )?;
        Ok(self.kept.tunnel(name, transport))
    }
}

/// Keys whose values differ, or that only one has.
fn differing(old: &BTreeMap<String, String>, new: &BTreeMap<String, String>) -> BTreeSet<String> {
    let keys = old.keys().chain(new.keys());
    keys.filter(|key| old.get(*key) != new.get(*key))
        .cloned()
        .collect()
}
