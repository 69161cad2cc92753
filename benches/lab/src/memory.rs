//! What the daemon has in memory with three tunnels that carry traffic.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tempfile::TempDir;
use vpn_lab::{LabPlan, ProviderLab};

use crate::Error;
use crate::account;
use crate::contender::bound_to_us;
use crate::goals::{Bound, Goal};
use crate::rivals::write_private;

/// What is fetched through each tunnel.
const BYTES: u64 = 30_000_000;

/// How long one fetch may take between two reads.
const PATIENCE: Duration = Duration::from_secs(10);

/// Starts the daemon in a lab of its own, with three providers, and fetches through each tunnel.
pub(crate) fn daemon(program: &Path, bytes: Option<u64>) -> Result<Goal, Error> {
    let lab = ProviderLab::start(LabPlan::default())?;
    let folder = TempDir::with_prefix("bench-lab-")?;
    let mut config = "default = \"uk\"\non_exit = \"open\"\n[interface]\noffload = \"auto\"\n\
                      [dns]\napply = \"none\"\n"
        .to_owned();
    for region in lab.regions() {
        let (name, file) = (region.name(), region.profile().display());
        config += &format!("[tunnel.{name}]\nwireguard = \"{file}\"\n");
    }
    // Each region's own site can be reached through that region only.
    let sites = ["203.0.113.21:80", "203.0.113.22:80", "203.0.113.23:80"];
    for (site, region) in sites.iter().zip(lab.regions()) {
        let (address, _) = site.split_once(':').unwrap_or_default();
        let name = region.name();
        config += &format!("[[rule]]\ndst = \"{address}/32\"\nto = \"{name}\"\n");
    }
    let path = folder.path().join("multi-region.toml");
    write_private(&path, &config)?;
    let log = fs::File::create(folder.path().join("log"))?;
    let mut command = bound_to_us(&program.to_string_lossy());
    command
        .args(["run", "--config"])
        .arg(&path)
        .current_dir(folder.path())
        .env("TMPDIR", folder.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log);
    let mut process = lab.client().spawn(command)?;
    let mut line = String::new();
    if let Some(out) = process.child().stdout.take() {
        BufReader::new(out).read_line(&mut line)?;
    }
    if line.trim() != "ready" {
        let said = fs::read_to_string(folder.path().join("log")).unwrap_or_default();
        return Err(format!("the daemon did not start: {}", said.trim()).into());
    }
    for site in sites {
        lab.client()
            .run(|| fetch(site, bytes.unwrap_or(BYTES)))?
            .map_err(|e| format!("{site}: {e}"))?;
    }
    let (_, most) = account::resident(process.id()).ok_or("the daemon has ended")?;
    Ok(Goal {
        group: "G10",
        what: "memory of the daemon at most, three tunnels under load".to_owned(),
        value: most as f64 / 1024.0,
        unit: "MiB",
        bound: Bound::AtMost(25.0 * 1e6 / f64::from(1 << 20)),
    })
}

fn fetch(site: &str, bytes: u64) -> Result<(), Error> {
    let address: SocketAddr = site.parse()?;
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(
        stream,
        "GET /bytes/{bytes} HTTP/1.1\r\nHost: {site}\r\nConnection: close\r\n\r\n"
    )?;
    let (mut got, mut chunk) = (0, vec![0; 1 << 18]);
    loop {
        match stream.read(&mut chunk)? {
            0 if got >= bytes => return Ok(()),
            0 => return Err(format!("{got} of {bytes} bytes came").into()),
            length => got += length as u64,
        }
    }
}
