//! OpenVPN over UDP in userspace, with the certificate of each end known to the other.

use super::{daemon, make, wait_for_device};
use crate::Error;
use crate::contender::{PORT, Running};
use crate::ground::{APP, CABLE_APP, CABLE_FAR, FAR, MTU};

/// The device's name.
const DEVICE: &str = "ovpn0";

pub(super) fn start(mut running: Running) -> Result<Running, Error> {
    let folder = running.folder.path().to_owned();
    let file = |name: &str| folder.join(name).to_string_lossy().into_owned();
    let mut prints = Vec::new();
    for end in ["app", "far"] {
        let (key, certificate) = (file(&format!("{end}.key")), file(&format!("{end}.crt")));
        let subject = format!("/CN={end}");
        #[rustfmt::skip]
        make(&running.ground.app, &[
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
            "-nodes", "-days", "30", "-subj", &subject, "-keyout", &key, "-out", &certificate,
        ])?;
        #[rustfmt::skip]
        let print = make(&running.ground.app, &[
            "openssl", "x509", "-in", &certificate, "-noout", "-fingerprint", "-sha256",
        ])?;
        prints.push(print.trim().rsplit('=').next().unwrap_or("").to_owned());
    }
    let ends = [
        (
            &running.ground.app,
            "app",
            "--tls-client",
            &prints[1],
            CABLE_FAR,
            APP,
            FAR,
        ),
        (
            &running.ground.far,
            "far",
            "--tls-server",
            &prints[0],
            CABLE_APP,
            FAR,
            APP,
        ),
    ];
    for (machine, end, role, print, peer, own, other) in ends {
        let log = folder.join(format!("{end}.log"));
        let (peer, own, other) = (peer.to_string(), own.to_string(), other.to_string());
        let (port, mtu) = (PORT.to_string(), MTU.to_string());
        let (key, certificate) = (file(&format!("{end}.key")), file(&format!("{end}.crt")));
        #[rustfmt::skip]
        let mut process = daemon(machine, &[
            "openvpn", "--dev", DEVICE, "--dev-type", "tun", "--proto", "udp", "--port", &port,
            "--remote", &peer, role, "--dh", "none", "--cert", &certificate, "--key", &key,
            "--peer-fingerprint", print, "--cipher", "AES-256-GCM", "--data-ciphers", "AES-256-GCM",
            "--topology", "p2p", "--ifconfig", &own, &other, "--tun-mtu", &mtu, "--mssfix", "0",
            "--txqueuelen", "1000", "--fast-io", "--sndbuf", "1048576", "--rcvbuf", "1048576",
            "--verb", "3",
        ], &log)?;
        wait_for_device(machine, DEVICE, &mut process, &log)?;
        running.processes.push(process);
    }
    Ok(running)
}
