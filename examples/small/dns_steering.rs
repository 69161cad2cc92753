//! DNS per app: two apps ask the same resolver address, each is answered by the resolver of its own
//! tunnel, and a rule with a domain sends the first connection after a lookup elsewhere.
#![allow(clippy::print_stdout, reason = "an example talks to its reader")]

use std::error::Error;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use simple_dns::rdata::{A, RData};
use simple_dns::{CLASS, Name, Packet as Dns, Question, ResourceRecord, TYPE};
use vpn_core::testing::{AppSide, FarSide, build, memory_device, memory_transport};
use vpn_core::{
    Action, Assigned, DropReason, Owner, OwnerMatch, Protocol, Rule, RuleId, RuleMatch,
    RuleSnapshot, TunnelId,
};
use vpn_routing::RouterConfig;
use vpn_routing::engine::Engine;
use vpn_routing::owner::MemoryOwners;
use vpn_routing::rules::{CompiledRules, RuleCache, Target};

/// What apps are told to ask. It is nobody's address.
const RESOLVER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(100, 127, 255, 53));
/// Both providers assign it, so it is on the device.
const OWN: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 5, 0, 2));
/// Where each provider's resolver is, and where it says sites are.
const REGIONS: [(&str, [u8; 4], [u8; 4]); 2] = [
    ("uk", [198, 18, 1, 53], [192, 0, 2, 1]),
    ("fr", [198, 18, 2, 53], [192, 0, 2, 2]),
];
/// Where DNS begins in an IPv4 datagram without options.
const PAYLOAD: usize = 28;

type Failure = Box<dyn Error>;

fn rule(id: u64, uid: u32, domain: Option<&str>, tunnel: &str) -> Result<Rule, Failure> {
    let matches = RuleMatch {
        owner: Some(OwnerMatch::Uid(uid)),
        domain: domain.map(str::parse).transpose()?,
        ..RuleMatch::default()
    };
    let action = Action::Tunnel(tunnel.to_owned());
    Ok(Rule::new(RuleId(id), matches, action))
}

async fn within<T>(wait: impl Future<Output = Option<T>>) -> Result<T, Failure> {
    let waited = tokio::time::timeout(Duration::from_secs(5), wait).await;
    waited?.ok_or_else(|| "the engine ended".into())
}

/// The app at `port` looks a name up; `region` must be the one that is asked.
async fn look_up(
    apps: &AppSide,
    port: u16,
    name: &str,
    (region, far): (usize, &FarSide),
) -> Result<IpAddr, Failure> {
    let (tunnel, resolver, site) = REGIONS[region];
    let mut query = Dns::new_query(port);
    let question = Question::new(Name::new(name)?, TYPE::A.into(), CLASS::IN.into(), false);
    query.questions.push(question);
    let message = query.build_bytes_vec()?;
    apps.inject(&build::udp((OWN, port), (RESOLVER, 53), &message))?;

    // Its provider's side: a forger who does not know the id comes first.
    let asked = within(far.take_wait()).await?;
    assert_eq!(asked.parse()?.flow.dst(), IpAddr::from(resolver));
    let mut answer = Dns::parse(&asked.bytes()[PAYLOAD..])?.into_reply();
    let site = RData::A(A::from(std::net::Ipv4Addr::from(site)));
    let record = ResourceRecord::new(Name::new(name)?, CLASS::IN, 300, site);
    answer.answers.push(record);
    for id in [port + 1, port] {
        answer.set_id(id);
        let message = answer.build_bytes_vec()?;
        far.inject(&build::udp((resolver.into(), 53), (OWN, port), &message))?;
    }

    // The app's: the answer comes from where it asked.
    let told = within(apps.take_wait()).await?;
    assert_eq!(told.parse()?.flow.src(), RESOLVER);
    let told = Dns::parse(&told.bytes()[PAYLOAD..])?;
    match told.answers.first().map(|record| &record.rdata) {
        Some(RData::A(a)) if told.id() == port => {
            let address = std::net::Ipv4Addr::from_bits(a.address);
            println!("app at {port}: {tunnel} says that {name} is {address}");
            Ok(address.into())
        }
        other => Err(format!("not the answer: {other:?}").into()),
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let (device, apps) = memory_device(64, 1420);
    let owners = MemoryOwners::new();
    for (port, uid) in [(4001, 1001), (4002, 1002), (5001, 1001), (5002, 1001)] {
        owners.set(Protocol::UDP, (OWN, port).into(), Owner::user(uid));
    }
    let rules = RuleCache::new();
    let snapshot = RuleSnapshot::from(vec![
        rule(1, 1001, None, "uk")?,
        rule(2, 1002, None, "fr")?,
        rule(3, 1001, Some(".example.org"), "fr")?,
    ]);
    let index = |name: &str| REGIONS.iter().position(|region| region.0 == name);
    let names = |name: &str| index(name).map(|index| TunnelId::new(index as u16));
    let block = Target::Block(DropReason::BlockedByDefault);
    rules.swap(CompiledRules::compile(&snapshot, &names, block)?);

    let mut config = RouterConfig::default();
    config.resolvers.push(RESOLVER);
    let mut engine = Engine::new(Arc::new(device), Arc::new(owners), rules, config);
    let [uk, fr] = REGIONS.map(|(name, resolver, _)| {
        let (transport, far) = memory_transport(64, 1420);
        far.up(Assigned {
            addresses: vec![OWN.into()],
            dns: vec![resolver.into()],
            mtu: 1420,
            ..Assigned::default()
        });
        engine.add_tunnel(name, Arc::new(transport)).map(|_| far)
    });
    let (uk, fr) = (uk?, fr?);
    let (handle, task) = (engine.handle(), tokio::spawn(engine.run()));

    // One address to ask, two regions that answer.
    let in_uk = look_up(&apps, 4001, "example.com", (0, &uk)).await?;
    let in_fr = look_up(&apps, 4002, "example.com", (1, &fr)).await?;
    assert_ne!(in_uk, in_fr);
    // The rule for the domain takes the query, and the first connection after it.
    let site = look_up(&apps, 4001, "www.example.org", (1, &fr)).await?;
    for (port, to, far, tunnel) in [(5001, site, &fr, "fr"), (5002, in_uk, &uk, "uk")] {
        apps.inject(&build::udp((OWN, port), (to, 443), b"hello"))?;
        let flow = within(far.take_wait()).await?.parse()?.flow;
        println!("app at {port}: {flow} goes through {tunnel}");
    }

    handle.stop().await;
    let status = task.await??;
    let forged = status.accounts.drops.get(DropReason::DnsUnexpected);
    assert!(status.accounts.balance() && forged == 3, "{status:?}");
    assert!(uk.take().is_none() && fr.take().is_none());
    println!("{forged} forged answers were dropped: {:?}", status.dns);
    Ok(())
}
