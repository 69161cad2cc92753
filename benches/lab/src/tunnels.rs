//! A hundred tunnels beside one, with the same streams: what it costs to have many.

use std::net::Ipv4Addr;
use std::process::Command;
use std::time::Duration;

use crate::Error;
use crate::carry::{self, behind, far_device};
use crate::contender::{Contender, Running};
use crate::goals::{Bound, Goal};
use crate::ground::{APP, ASSIGNED, MTU};
use crate::measure::{self, Windows};
use crate::results::Rounds;
use vpn_benches::ruler::median;

/// Tunnels, and streams: one through each.
pub(crate) const MANY: u8 = 100;

/// `ip` sets a hundred devices up within a second.
const SET_UP_LIMIT: Duration = Duration::from_secs(20);

/// Both, in turns.
pub(crate) fn compare(
    many: u8,
    windows: Windows,
    rounds: usize,
    mut tell: impl FnMut(&str),
) -> Result<(Vec<Rounds>, Goal), Error> {
    let contenders = [1, many].map(Contender::engine_with);
    let mut results: Vec<Rounds> = contenders.iter().map(Rounds::of).collect();
    let mut ratios = Vec::new();
    for round in 0..rounds {
        let mut costs = [0.0; 2];
        for turn in 0..2 {
            let which = (turn + round) % 2;
            tell(&contenders[which].label);
            let running = contenders[which].start(false)?;
            let targets: Vec<Ipv4Addr> = (0..many).map(behind).collect();
            set_up(&running, if which == 0 { 1 } else { many }, many)?;
            let figures = measure::stream(&running, &targets, windows, None)?;
            costs[which] = figures.own_cpu.unwrap_or(f64::NAN);
            results[which].rounds.push(Some(figures));
        }
        ratios.push(costs[1] / costs[0]);
    }
    let goal = Goal {
        group: "G10",
        what: format!("own CPU per GB, {many} tunnels beside 1, {many} streams"),
        value: median(ratios),
        unit: "x",
        bound: Bound::AtMost(1.05),
    };
    Ok((results, goal))
}

/// Gives the far end an address behind each tunnel. All tunnels have the same address of ours, so
/// what answers goes by its source.
fn set_up(running: &Running, tunnels: u8, streams: u8) -> Result<(), Error> {
    let app = format!(
        "route replace 10.79.0.0/16 dev {} src {APP}\n",
        carry::DEVICE
    );
    batch(&running.ground.app, &app)?;
    let mut far = String::new();
    for number in 0..streams {
        let device = far_device(number.min(tunnels - 1));
        far += &format!("addr add {}/32 dev {device}\n", behind(number));
        if number > 0 && number < tunnels {
            let table = 1000 + u32::from(number);
            far += &format!("link set {device} mtu {MTU} txqueuelen 1000 up\n");
            far += &format!("route add {ASSIGNED}/32 dev {device} table {table}\n");
            far += &format!("rule add from {}/32 lookup {table}\n", behind(number));
        }
    }
    running.ground.far.set_rp_filter(0)?;
    batch(&running.ground.far, &far)
}

fn batch(machine: &vpn_lab::Namespace, lines: &str) -> Result<(), Error> {
    let mut command = Command::new("ip");
    command.args(["-batch", "-"]);
    let output = machine.output_of(command, lines.as_bytes(), SET_UP_LIMIT)?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("ip: {}", output.stderr.trim()).into()),
    }
}
