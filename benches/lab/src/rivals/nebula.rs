//! nebula: two hosts with certificates of one authority; the far one is the lighthouse.

use super::{daemon, make, wait_for_device, write_private};
use crate::Error;
use crate::contender::{PORT, Running};
use crate::ground::{APP, CABLE_FAR, FAR, MTU};

/// The device's name.
const DEVICE: &str = "nebula0";

pub(super) fn start(mut running: Running) -> Result<Running, Error> {
    let folder = running.folder.path().to_owned();
    let file = |name: &str| folder.join(name).to_string_lossy().into_owned();
    let (authority, authority_key) = (file("ca.crt"), file("ca.key"));
    #[rustfmt::skip]
    make(&running.ground.app, &[
        "nebula-cert", "ca", "-name", "bench", "-duration", "24h",
        "-out-crt", &authority, "-out-key", &authority_key,
    ])?;
    for (end, address) in [("app", APP), ("far", FAR)] {
        let (certificate, key) = (file(&format!("{end}.crt")), file(&format!("{end}.key")));
        let address = format!("{address}/24");
        #[rustfmt::skip]
        make(&running.ground.app, &[
            "nebula-cert", "sign", "-ca-crt", &authority, "-ca-key", &authority_key, "-name", end,
            "-ip", &address, "-out-crt", &certificate, "-out-key", &key,
        ])?;
    }
    let far = FAR.to_string();
    let ends = [
        (
            &running.ground.far,
            "far",
            "am_lighthouse: true, hosts: []".to_owned(),
        ),
        (
            &running.ground.app,
            "app",
            format!("am_lighthouse: false, hosts: [\"{far}\"]"),
        ),
    ];
    for (machine, end, lighthouse) in ends {
        let path = folder.join(format!("{end}.yml"));
        let (certificate, key) = (file(&format!("{end}.crt")), file(&format!("{end}.key")));
        write_private(
            &path,
            &format!(
                "pki: {{ ca: {authority}, cert: {certificate}, key: {key} }}\n\
                 static_host_map: {{ \"{far}\": [\"{CABLE_FAR}:{PORT}\"] }}\n\
                 lighthouse: {{ {lighthouse} }}\n\
                 listen: {{ host: 0.0.0.0, port: {PORT}, read_buffer: 1048576, write_buffer: 1048576 }}\n\
                 punchy: {{ punch: false }}\n\
                 tun: {{ dev: {DEVICE}, mtu: {MTU}, tx_queue: 1000 }}\n\
                 logging: {{ level: warning }}\n\
                 firewall:\n  outbound: [{{ port: any, proto: any, host: any }}]\n  \
                 inbound: [{{ port: any, proto: any, host: any }}]\n"
            ),
        )?;
        let log = folder.join(format!("{end}.log"));
        let words = ["nebula", "-config", &path.to_string_lossy()];
        let mut process = daemon(machine, &words, &log)?;
        wait_for_device(machine, DEVICE, &mut process, &log)?;
        running.processes.push(process);
    }
    Ok(running)
}
