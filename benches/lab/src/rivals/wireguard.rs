//! Any WireGuard daemon that is configured through its control socket, by `wg`.

use std::time::{Duration, Instant};

use vpn_lab::KeyPair;

use super::{START_LIMIT, daemon, wait_for_device, write_private};
use crate::Error;
use crate::contender::{PORT, Running};
use crate::ground::{CABLE_APP, CABLE_FAR};

pub(super) fn start(command: &str, mut running: Running) -> Result<Running, Error> {
    let keys = [KeyPair::generate()?, KeyPair::generate()?];
    // The control sockets of all namespaces lie in one folder, so the names say whose they are.
    let names = ["a", "f"].map(|end| format!("bl{:x}{end}", std::process::id()));
    let ends = [
        (
            &running.ground.app,
            &names[0],
            &keys[0],
            &keys[1],
            CABLE_FAR,
        ),
        (
            &running.ground.far,
            &names[1],
            &keys[1],
            &keys[0],
            CABLE_APP,
        ),
    ];
    for (machine, name, own, other, peer) in ends {
        let log = running.folder.path().join(format!("{name}.log"));
        let mut words: Vec<&str> = command.split_whitespace().collect();
        words.extend(["-f", name.as_str()]);
        let mut process = daemon(machine, &words, &log)?;
        wait_for_device(machine, name, &mut process, &log)?;
        running.processes.push(process);
        let path = running.folder.path().join(format!("{name}.conf"));
        let text = format!(
            "[Interface]\nPrivateKey = {}\nListenPort = {PORT}\n\
             [Peer]\nPublicKey = {}\nAllowedIPs = 0.0.0.0/0\nEndpoint = {peer}:{PORT}\n",
            own.private_base64(),
            other.public_base64(),
        );
        write_private(&path, &text)?;
        let setting = format!("setconf {name} {}", path.display());
        let end = Instant::now() + START_LIMIT;
        // The device is there a little before the control socket.
        while let Err(error) = machine.tool("wg", &setting) {
            if Instant::now() > end {
                return Err(error.into());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    running.ground.set_up_devices(&names[0], &names[1])?;
    Ok(running)
}
