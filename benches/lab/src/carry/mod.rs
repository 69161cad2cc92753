//! What carries packets: a process of its own, so that its CPU time and memory are its own too.
//!
//! `bench-lab carry KIND [KEY=VALUE...]` starts in the namespace of the application, writes `ready`
//! once its devices are there, and ends with its standard input: it never outlives who started it.

mod copy;
mod engine;
mod wireguard;

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Write};
use std::thread;

use nix::sched::{CloneFlags, setns};
use tokio::runtime::Handle;
use vpn_tun::{LinuxTun, TunConfig};

pub(crate) use engine::{behind, far_device};

use crate::Error;
use crate::ground::MTU;

/// The device's name in either namespace.
pub(crate) const DEVICE: &str = "tun0";

/// What a carrier is told, by key.
#[derive(Debug)]
struct Words(HashMap<String, String>);

impl Words {
    fn parse(words: &[String]) -> Self {
        let pairs = words.iter().filter_map(|word| word.split_once('='));
        Self(pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).collect())
    }

    fn get(&self, key: &str) -> Result<&str, Error> {
        let value = self.0.get(key).map(String::as_str);
        value.ok_or_else(|| format!("no {key}").into())
    }

    /// Whether devices exchange super-packets.
    fn offload(&self) -> bool {
        !matches!(self.get("offload"), Ok("off"))
    }
}

/// Runs as a carrier, to the end of standard input.
pub(crate) fn main(words: &[String]) -> Result<(), Error> {
    let Some((kind, words)) = words.split_first() else {
        return Err("carry what?".into());
    };
    let words = Words::parse(words);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    // Reading standard input blocks a thread until the end; it must not be the runtime's.
    let (closed, end) = tokio::sync::oneshot::channel::<()>();
    thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        let _ = closed.send(());
    });
    runtime.block_on(async {
        let work = async {
            match kind.as_str() {
                "null" => copy::null(&words).await,
                "tun-rs" => copy::split_and_merge(&words).await,
                "engine" => engine::run(&words).await,
                "wireguard" => wireguard::run(&words).await,
                _ => Err(format!("nothing carries {kind}").into()),
            }
        };
        tokio::select! {
            result = work => result,
            _ = end => Ok(()),
        }
    })
}

/// Tells the parent that devices are there.
fn ready() -> Result<(), Error> {
    let mut out = std::io::stdout();
    writeln!(out, "ready")?;
    Ok(out.flush()?)
}

/// Runs `work` in the far end's namespace, inside this runtime.
fn in_far<T: Send + 'static>(
    words: &Words,
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let namespace = File::open(words.get("far")?)?;
    let runtime = Handle::current();
    let thread = thread::spawn(move || {
        setns(namespace, CloneFlags::CLONE_NEWNET)?;
        let _inside = runtime.enter();
        work()
    });
    thread.join().map_err(|_| "a thread panicked")?
}

/// The device as the SDK makes it.
fn tun(name: &str, offload: bool) -> Result<LinuxTun, Error> {
    let tun = LinuxTun::create(TunConfig::named(name.parse()?).mtu(MTU).offload(offload))?;
    if offload && !tun.has_offload() {
        return Err("this kernel's TUN does not pass super-packets whole".into());
    }
    Ok(tun)
}
