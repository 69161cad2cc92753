//! The distribution's `wireguard-go` as a server.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Stdio, id};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::error::LabError;
use crate::namespace::Namespace;
use crate::process::{Process, bound_to_us, wait_for};
use crate::provider::{Keys, RegionPlan, TUNNEL_MTU, write_private};

/// How long the daemon may take to open its control socket.
const START_LIMIT: Duration = Duration::from_secs(10);

/// What the daemon writes once it can be configured.
const READY: &str = "UAPI listener started";

/// What the daemon writes for a packet whose source is not among the peer's AllowedIPs.
const SPOOFED: &str = "disallowed source address";

/// A running `wireguard-go` with its interface up and configured.
#[derive(Debug)]
pub(crate) struct WireguardGo {
    process: Process,
    interface: String,
    log: PathBuf,
}

impl WireguardGo {
    /// A server for `plan`, which accepts its one client only with the address handed out.
    pub(crate) fn start(
        plan: &RegionPlan,
        keys: &Keys,
        namespace: &Namespace,
        folder: &Path,
    ) -> Result<Self, LabError> {
        let settings = plan.server_settings(keys);
        let this = Self::daemon(&plan.name, &settings, namespace, folder)?;
        plan.set_up(namespace, &this.interface)?;
        Ok(this)
    }

    /// A stock client that follows a wg-quick file, without routes: bind to its interface.
    pub(crate) fn client(
        name: &str,
        profile: &Path,
        namespace: &Namespace,
        folder: &Path,
    ) -> Result<Self, LabError> {
        let text = fs::read_to_string(profile).map_err(|cause| LabError::file(profile, cause))?;
        let for_quick_only = ["Address", "DNS", "MTU"];
        let is_for_wg = |line: &&str| !for_quick_only.iter().any(|key| line.starts_with(key));
        let settings: Vec<&str> = text.lines().filter(is_for_wg).collect();
        let this = Self::daemon(
            &format!("client-{name}"),
            &(settings.join("\n") + "\n"),
            namespace,
            folder,
        )?;
        let addresses = text
            .lines()
            .filter_map(|line| line.strip_prefix("Address = "));
        for address in addresses.flat_map(|list| list.split(',')) {
            let nodad = if address.contains(':') { " nodad" } else { "" };
            namespace.ip(&format!(
                "addr add {} dev {}{nodad}",
                address.trim(),
                this.interface
            ))?;
        }
        namespace.ip(&format!("link set {} up mtu {TUNNEL_MTU}", this.interface))?;
        Ok(this)
    }

    /// The name of its interface.
    pub(crate) fn interface(&self) -> &str {
        &self.interface
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Packets it refused for their source, counted in its log.
    pub(crate) fn drops(&self) -> Result<u64, LabError> {
        let log =
            fs::read_to_string(&self.log).map_err(|cause| LabError::file(&self.log, cause))?;
        Ok(log.lines().filter(|line| line.contains(SPOOFED)).count() as u64)
    }

    fn daemon(
        name: &str,
        settings: &str,
        namespace: &Namespace,
        folder: &Path,
    ) -> Result<Self, LabError> {
        let interface = interface_name();
        let log = folder.join(format!("{name}.log"));
        let file = File::create(&log).map_err(|cause| LabError::file(&log, cause))?;
        let errors = file
            .try_clone()
            .map_err(|cause| LabError::file(&log, cause))?;
        let mut command = bound_to_us("wireguard-go");
        command
            .args(["-f", &interface])
            .env("LOG_LEVEL", "verbose")
            // Newer ones print a warning and leave where the kernel has WireGuard itself.
            .env("WG_I_PREFER_BUGGY_USERSPACE_TO_POLISHED_KMOD", "1")
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(errors);
        let process = namespace.spawn(command)?;
        let mut this = Self {
            process,
            interface,
            log,
        };
        this.wait_until_ready(namespace.label())?;
        let path = folder.join(format!("{name}.setconf"));
        write_private(&path, settings)?;
        namespace.tool(
            "wg",
            &format!("setconf {} {}", this.interface, path.display()),
        )?;
        Ok(this)
    }

    /// Waits for the daemon's own word. Asking by `wg show` instead would now and then fall between
    /// its bind and its listen, and `wg` removes a socket that refuses.
    fn wait_until_ready(&mut self, label: &str) -> Result<(), LabError> {
        let what = format!("wireguard-go's control socket for {}", self.interface);
        wait_for(&what, START_LIMIT, || {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            if log.contains(READY) {
                return Some(Ok(()));
            }
            (!self.process.is_running()).then(|| {
                Err(LabError::Failed {
                    command: format!("wireguard-go -f {}", self.interface),
                    label: label.to_owned(),
                    message: log,
                })
            })
        })?
    }
}

/// A name no other lab of this machine uses: the control sockets of all namespaces lie in one
/// folder, under the interface's name. At most 15 characters.
fn interface_name() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("w{:x}n{:x}", id(), number & 0xfff)
}
