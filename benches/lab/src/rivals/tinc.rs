//! tinc 1.0: two nodes that know each other's file.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use super::{daemon, make, wait_for_device};
use crate::Error;
use crate::contender::{PORT, Running};
use crate::ground::{APP, CABLE_APP, CABLE_FAR, FAR, MTU};

/// The device's name.
const DEVICE: &str = "tinc0";

/// It goes over TCP until it has probed the path's MTU.
const SETTLING: Duration = Duration::from_secs(6);

pub(super) fn start(mut running: Running) -> Result<Running, Error> {
    let folder = running.folder.path().to_owned();
    let ends = [("app", CABLE_APP, APP, FAR), ("far", CABLE_FAR, FAR, APP)];
    for (end, ..) in ends {
        let own = folder.join(end);
        fs::create_dir_all(own.join("hosts"))?;
        fs::write(own.join("tinc.conf"), format!("Name = {end}\n"))?;
        let own = own.to_string_lossy().into_owned();
        make(&running.ground.app, &["tincd", "-c", &own, "-K", "2048"])?;
    }
    for (end, underlay, inside, _) in ends {
        let own = folder.join(end).join("hosts").join(end);
        let key = fs::read_to_string(&own)?;
        let text = format!("Address = {underlay}\nSubnet = {inside}/32\nPort = {PORT}\n{key}");
        for other in ["app", "far"] {
            fs::write(folder.join(other).join("hosts").join(end), &text)?;
        }
    }
    for (end, _, inside, beyond) in ends {
        let own = folder.join(end);
        let other = if end == "app" { "far" } else { "app" };
        fs::write(
            own.join("tinc.conf"),
            format!(
                "Name = {end}\nConnectTo = {other}\nInterface = {DEVICE}\nAddressFamily = ipv4\n\
                 UDPRcvBuf = 1048576\nUDPSndBuf = 1048576\n"
            ),
        )?;
        let up = own.join("tinc-up");
        fs::write(
            &up,
            format!(
                "#!/bin/sh\nip addr add {inside}/32 dev {DEVICE}\n\
                 ip link set {DEVICE} mtu {MTU} txqueuelen 1000 up\n\
                 ip route add {beyond}/32 dev {DEVICE}\n"
            ),
        )?;
        fs::set_permissions(&up, Permissions::from_mode(0o700))?;
        let machine = match end {
            "app" => &running.ground.app,
            _ => &running.ground.far,
        };
        let log = folder.join(format!("{end}.log"));
        let pid = format!("--pidfile={}", own.join("pid").display());
        let words = ["tincd", "-c", &own.to_string_lossy(), "-D", &pid];
        let mut process = daemon(machine, &words, &log)?;
        wait_for_device(machine, DEVICE, &mut process, &log)?;
        running.processes.push(process);
    }
    running.settling = SETTLING;
    Ok(running)
}
