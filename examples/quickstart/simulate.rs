//! The simulated world: apps, device and providers in memory, for systems without user namespaces
//! or TUN. The router, its rules and its engine are the real ones.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use vpn_core::testing::{AppSide, FarSide, build, memory_device, memory_transport};
use vpn_core::{Assigned, Owner, Packet, Protocol, TunnelTransport};
use vpn_routing::owner::MemoryOwners;

use crate::circuit::{APPS, Circuit, REGIONS};
use crate::clock::Nanos;
use crate::error::StepError;
use crate::report::Report;
use crate::stage::{Props, REPORTS, Stage, Told};

/// What every provider assigns.
const ASSIGNED: [u8; 4] = [10, 5, 0, 2];

/// The site, the same address in every region.
const SITE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(crate::SITE4), 80);

/// Packets in each direction of the device and of each tunnel.
const QUEUE: usize = 256;

/// MTU of device and tunnels, in bytes.
const MTU: u16 = 1420;

/// Length of an answer, in bytes: the region, then filler.
const ANSWER: usize = 1200;

/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(4);

/// Pause between two questions of an app.
const PAUSE: Duration = Duration::from_millis(5);

/// Each app's questions go round the ports of a range of its own, so that an answer's port says
/// whose it is.
const PORTS: u16 = 10_000;
const FIRST_PORT: u16 = 20_000;

/// Starts the simulated world. `why` says why the real one is not used.
pub(crate) async fn start(why: &str) -> Result<Stage, StepError> {
    let (device, outside) = memory_device(QUEUE, MTU);
    let owners = MemoryOwners::new();
    let mut props = Simulated {
        apps: Vec::new(),
        others: Vec::new(),
        providers: Vec::new(),
    };
    let mut tunnels: Vec<Arc<dyn TunnelTransport>> = Vec::new();
    for region in REGIONS {
        let (transport, far) = memory_transport(QUEUE, MTU);
        far.strict_source(true);
        far.up(Assigned {
            addresses: vec![std::net::IpAddr::from(ASSIGNED).into()],
            dns: Vec::new(),
            mtu: MTU,
            ..Assigned::default()
        });
        tunnels.push(Arc::new(transport));
        props
            .others
            .push(tokio::spawn(provide(region, far.clone())));
        props.providers.push(far);
    }
    let executables: Vec<PathBuf> = APPS
        .iter()
        .map(|app| PathBuf::from("/simulated").join(app))
        .collect();
    let resolver = Arc::new(owners.clone());
    let circuit = Circuit::start(Arc::new(device), resolver, tunnels, &executables).await?;
    let (told, reports) = mpsc::channel(REPORTS);
    let mut inboxes = Vec::new();
    for (number, executable) in executables.into_iter().enumerate() {
        let (inbox, answers) = mpsc::channel(1);
        inboxes.push(inbox);
        let app = App {
            number,
            executable: executable.into(),
            outside: outside.clone(),
            owners: owners.clone(),
            answers,
        };
        props.apps.push(tokio::spawn(app.run(told.clone())));
    }
    props.others.push(tokio::spawn(deliver(outside, inboxes)));
    Ok(Stage {
        title: format!("SIMULATED apps and providers on a device in memory: {why}"),
        circuit,
        reports,
        props: Box::new(props),
    })
}

#[derive(Debug)]
struct Simulated {
    apps: Vec<JoinHandle<()>>,
    others: Vec<JoinHandle<()>>,
    providers: Vec<FarSide>,
}

impl Props for Simulated {
    fn stop_apps(&mut self) {
        self.apps.drain(..).for_each(|app| app.abort());
    }

    fn refused(&self, region: usize) -> u64 {
        self.providers.get(region).map_or(0, FarSide::rejected)
    }
}

impl Drop for Simulated {
    fn drop(&mut self) {
        self.stop_apps();
        self.others.drain(..).for_each(|task| task.abort());
    }
}

/// A provider: answers every question with the region's name.
async fn provide(region: &'static str, far: FarSide) {
    let mut answer = vec![b'\n'; ANSWER];
    answer[..region.len()].copy_from_slice(region.as_bytes());
    while let Some(packet) = far.take_wait().await {
        let Ok(parsed) = packet.parse() else { continue };
        let back = parsed.flow.reversed();
        let source = (back.src(), back.src_port());
        let packet = build::udp(source, (back.dst(), back.dst_port()), &answer);
        if far.inject_wait(Packet::from_slice(&packet)).await.is_err() {
            break;
        }
    }
}

/// Hands answers to the app whose port they are for.
async fn deliver(outside: AppSide, inboxes: Vec<mpsc::Sender<(u16, Vec<u8>)>>) {
    while let Some(packet) = outside.take_wait().await {
        let Ok(parsed) = packet.parse() else { continue };
        let port = parsed.flow.dst_port();
        let app = port
            .checked_sub(FIRST_PORT)
            .map(|offset| usize::from(offset / PORTS));
        let Some(inbox) = app.and_then(|app| inboxes.get(app)) else {
            continue;
        };
        let payload = packet
            .bytes()
            .get(usize::from(parsed.payload)..)
            .unwrap_or_default();
        // An app that has ended needs no answer.
        let _ = inbox.send((port, payload.to_vec())).await;
    }
}

struct App {
    number: usize,
    executable: Arc<std::path::Path>,
    outside: AppSide,
    owners: MemoryOwners,
    answers: mpsc::Receiver<(u16, Vec<u8>)>,
}

impl App {
    async fn run(mut self, told: mpsc::Sender<(usize, Told)>) {
        let first = FIRST_PORT + PORTS * self.number as u16;
        for (socket, port) in (1..).zip((first..first + PORTS).cycle()) {
            let report = self.ask(port, socket).await;
            if told
                .send((self.number, Told::Report(report)))
                .await
                .is_err()
            {
                break;
            }
            sleep(PAUSE).await;
        }
    }

    /// Asks from a socket of its own, as a real app would.
    async fn ask(&mut self, port: u16, socket: u64) -> Report {
        let local = SocketAddr::from((ASSIGNED, port));
        let executable = Some(self.executable.clone());
        self.owners.set(
            Protocol::UDP,
            local,
            Owner {
                executable,
                socket,
                ..Owner::user(1000)
            },
        );
        let opened = Nanos::now();
        let question = Packet::from_slice(&build::udp(local, SITE, b"where am I?"));
        let answer = match self.outside.inject_wait(question).await {
            Ok(()) => timeout(LIMIT, self.answer_to(port)).await,
            Err(_) => Ok(None),
        };
        self.owners.remove(Protocol::UDP, local);
        Report {
            opened,
            connected: Nanos::now(),
            answer: match answer {
                Ok(Some(region)) => Ok(region),
                Ok(None) => Err("the device is closed".to_owned()),
                Err(_) => Err("no answer".to_owned()),
            },
        }
    }

    async fn answer_to(&mut self, port: u16) -> Option<String> {
        loop {
            let (to, payload) = self.answers.recv().await?;
            if to == port {
                let text = String::from_utf8_lossy(&payload);
                return Some(text.lines().next().unwrap_or_default().to_owned());
            }
        }
    }
}
