//! The distribution's `openvpn` as a server, with a certificate authority of its own.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::error::LabError;
use crate::namespace::Namespace;
use crate::process::{Process, bound_to_us, wait_for};
use crate::provider::{RegionPlan, write_private};

/// The port it listens on.
pub(crate) const PORT: u16 = 1194;

/// Its interface.
pub(crate) const INTERFACE: &str = "tun0";

/// How long it may take to be ready.
const START_LIMIT: Duration = Duration::from_secs(10);

/// How long a certificate may take to be made.
const MAKE_LIMIT: Duration = Duration::from_secs(10);

/// What it writes once clients can connect.
const READY: &str = "Initialization Sequence Completed";

/// What it writes for a packet whose source it has not handed out.
const SPOOFED: &str = "bad source address from client";

/// The name in the client's certificate.
const CLIENT: &str = "lab-client";

/// User and password, where the region asks for them.
pub const USER: &str = "lab";
/// See [`USER`].
pub const PASSWORD: &str = "lab \"pass\\word";

/// A running server.
#[derive(Debug)]
pub(crate) struct OpenVpn {
    process: Process,
    settings: PathBuf,
    log: PathBuf,
    label: String,
}

impl OpenVpn {
    /// A server for `plan`; writes the client's profile.
    pub(crate) fn start(
        plan: &RegionPlan,
        profile: &Path,
        namespace: &Namespace,
        folder: &Path,
        options: OpenVpnOptions,
    ) -> Result<Self, LabError> {
        let folder = folder.join(format!("openvpn-{}", plan.name));
        let failed = |cause| LabError::file(&folder, cause);
        fs::create_dir_all(folder.join("ccd")).map_err(failed)?;
        for (name, sign) in [("ca", false), ("server", true), ("client", true)] {
            certificate(&folder, name, sign, namespace)?;
        }
        write_private(
            &folder.join("ccd").join(CLIENT),
            &plan.openvpn_client_settings(),
        )?;
        let settings = folder.join("server.conf");
        write_private(&settings, &server_settings(plan, &folder, options))?;
        if options.password {
            let check = folder.join("check");
            write_private(&check, &check_script())?;
            use std::os::unix::fs::PermissionsExt as _;
            fs::set_permissions(&check, fs::Permissions::from_mode(0o700)).map_err(failed)?;
        }
        write_private(profile, &client_profile(plan, &folder, options)?)?;
        let log = folder.join("log");
        let process = spawn(&settings, &log, namespace)?;
        let mut this = Self {
            process,
            settings,
            log,
            label: namespace.label().to_owned(),
        };
        this.wait_until_ready()?;
        Ok(this)
    }

    /// Ends it and starts it anew, as after a reboot: it knows no session any more.
    pub(crate) fn restart(&mut self, namespace: &Namespace) -> Result<(), LabError> {
        // Killed: it tells nobody.
        self.process.signal(nix::sys::signal::Signal::SIGKILL);
        self.process.end();
        self.process = spawn(&self.settings, &self.log, namespace)?;
        self.wait_until_ready()
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Packets it refused for their source, counted in its log.
    pub(crate) fn drops(&self) -> Result<u64, LabError> {
        let log = self.read_log()?;
        Ok(log.lines().filter(|line| line.contains(SPOOFED)).count() as u64)
    }

    fn read_log(&self) -> Result<String, LabError> {
        fs::read_to_string(&self.log).map_err(|cause| LabError::file(&self.log, cause))
    }

    fn wait_until_ready(&mut self) -> Result<(), LabError> {
        wait_for("an OpenVPN server", START_LIMIT, || {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            if log.contains(READY) {
                return Some(Ok(()));
            }
            (!self.process.is_running()).then(|| {
                Err(LabError::Failed {
                    command: "openvpn".to_owned(),
                    label: self.label.clone(),
                    message: log,
                })
            })
        })?
    }
}

/// How a region's OpenVPN is set up. Default: UDP, a certificate alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenVpnOptions {
    /// Over TCP instead of UDP.
    pub tcp: bool,
    /// Whether [`USER`] and [`PASSWORD`] are asked for as well.
    pub password: bool,
}

impl RegionPlan {
    fn openvpn_client_settings(&self) -> String {
        let v6 = self.assigned6.zip(self.gateway6());
        let v6 = v6.map(|(own, server)| format!("ifconfig-ipv6-push {own}/64 {server}\n"));
        format!(
            "ifconfig-push {} 255.255.0.0\n{}",
            self.assigned4,
            v6.unwrap_or_default()
        )
    }
}

fn spawn(settings: &Path, log: &Path, namespace: &Namespace) -> Result<Process, LabError> {
    let file = File::create(log).map_err(|cause| LabError::file(log, cause))?;
    let errors = file
        .try_clone()
        .map_err(|cause| LabError::file(log, cause))?;
    let mut command = bound_to_us("openvpn");
    command
        .arg("--config")
        .arg(settings)
        .stdin(Stdio::null())
        .stdout(file)
        .stderr(errors);
    namespace.spawn(command)
}

fn server_settings(plan: &RegionPlan, folder: &Path, options: OpenVpnOptions) -> String {
    let folder = folder.display();
    let [a, b, ..] = plan.assigned4.octets();
    let proto = if options.tcp { "tcp6-server" } else { "udp6" };
    let v6 = match plan.gateway6() {
        Some(gateway) => {
            format!("ifconfig-ipv6 {gateway}/64 {gateway}\npush \"redirect-gateway def1 ipv6\"\n")
        }
        None => "push \"redirect-gateway def1\"\n".to_owned(),
    };
    let password = match options.password {
        true => format!("script-security 3\nauth-user-pass-verify {folder}/check via-env\n"),
        false => String::new(),
    };
    format!(
        "port {PORT}\nproto {proto}\ndev {INTERFACE}\ndev-type tun\ntopology subnet\n\
         server {a}.{b}.0.0 255.255.0.0 nopool\nclient-config-dir {folder}/ccd\nccd-exclusive\n\
         ca {folder}/ca.crt\ncert {folder}/server.crt\nkey {folder}/server.key\ndh none\n\
         keepalive 1 4\npush \"dhcp-option DNS {}\"\nverb 4\n{v6}{password}",
        plan.own_dns(),
    )
}

fn client_profile(
    plan: &RegionPlan,
    folder: &Path,
    options: OpenVpnOptions,
) -> Result<String, LabError> {
    let read = |name: &str| {
        let path = folder.join(name);
        fs::read_to_string(&path).map_err(|cause| LabError::file(&path, cause))
    };
    let proto = if options.tcp { "tcp" } else { "udp" };
    let password = if options.password {
        "auth-user-pass\n"
    } else {
        ""
    };
    Ok(format!(
        "client\ndev tun\nproto {proto}\nremote {} {PORT}\nnobind\npersist-key\npersist-tun\n\
         remote-cert-tls server\nverify-x509-name server name\n{password}\
         <ca>\n{}</ca>\n<cert>\n{}</cert>\n<key>\n{}</key>\n",
        plan.underlay4(),
        read("ca.crt")?,
        read("client.crt")?,
        read("client.key")?,
    ))
}

/// The password is compared in the shell, so it is quoted for it.
fn check_script() -> String {
    format!("#!/bin/sh\n[ \"$username\" = '{USER}' ] && [ \"$password\" = '{PASSWORD}' ]\n")
}

/// A key and a certificate: the authority's own, or signed by it.
fn certificate(
    folder: &Path,
    name: &str,
    sign: bool,
    namespace: &Namespace,
) -> Result<(), LabError> {
    let (extensions, subject) = match name {
        "ca" => (
            "basicConstraints=critical,CA:TRUE\nkeyUsage=keyCertSign,cRLSign\n",
            "Lab CA",
        ),
        "server" => (
            "basicConstraints=CA:FALSE\nkeyUsage=digitalSignature\nextendedKeyUsage=serverAuth\n",
            "server",
        ),
        _ => (
            "basicConstraints=CA:FALSE\nkeyUsage=digitalSignature\nextendedKeyUsage=clientAuth\n",
            CLIENT,
        ),
    };
    let settings = folder.join(format!("{name}.cnf"));
    let text = format!("[req]\ndistinguished_name=dn\nx509_extensions=e\n[dn]\n[e]\n{extensions}");
    write_private(&settings, &text)?;
    let mut command = Command::new("openssl");
    command
        .current_dir(folder)
        .args(["req", "-x509", "-newkey", "ec"])
        .args(["-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"])
        .args(["-days", "30", "-subj", &format!("/CN={subject}")])
        .args(["-keyout", &format!("{name}.key")])
        .args(["-out", &format!("{name}.crt")])
        .args(["-config", &format!("{name}.cnf")]);
    if sign {
        command.args(["-CA", "ca.crt", "-CAkey", "ca.key"]);
    }
    let output = namespace.output(command, MAKE_LIMIT)?;
    match output.status.success() {
        true => Ok(()),
        false => Err(LabError::Failed {
            command: "openssl req".to_owned(),
            label: namespace.label().to_owned(),
            message: output.stderr,
        }),
    }
}
