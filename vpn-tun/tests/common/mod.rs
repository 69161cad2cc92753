//! A network namespace of its own for each test.
#![allow(dead_code)]

pub(crate) mod site;

use std::future::Future;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use futures_util::TryStreamExt;
use nix::sched::{CloneFlags, unshare};
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressHeaderFlags};
use rtnetlink::packet_route::link::{LinkAttribute, State};
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage, RouteType};
use rtnetlink::packet_route::rule::{RuleAttribute, RuleFlags, RuleMessage};
use rtnetlink::{Handle, IpVersion, LinkMessageBuilder, LinkUnspec};
use rtnetlink::{LinkVeth, RouteMessageBuilder};

pub(crate) type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Runs a test on a thread of its own in a fresh network namespace, which goes with the thread.
/// Says so when the system doesn't allow that.
pub(crate) fn in_namespace<F>(test: fn() -> F)
where
    F: Future<Output = Result<()>> + 'static,
{
    let run = move || {
        if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
            return skipped(&format!(
                "no network namespace of our own ({error}); run as root"
            ));
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(test()).unwrap();
    };
    std::thread::spawn(run).join().unwrap();
}

/// Says why a test does not run. With `VPN_LAB_REQUIRED=1`, as in CI, that is a failure.
fn skipped(reason: &str) {
    let required = std::env::var_os("VPN_LAB_REQUIRED").is_some_and(|value| value == "1");
    assert!(!required, "this test must not be skipped here: {reason}");
    println!("SKIPPED: {reason}");
}

/// A netlink socket in this thread's namespace.
pub(crate) fn netlink() -> Handle {
    let (connection, handle, _) = rtnetlink::new_connection().unwrap();
    tokio::spawn(connection);
    handle
}

pub(crate) async fn index(handle: &Handle, name: &str) -> Result<u32> {
    let mut links = handle.link().get().match_name(name.to_owned()).execute();
    Ok(links.try_next().await?.ok_or("no link")?.header.index)
}

/// Waits until an interface that was let go of is gone. That may take a moment: a child that another
/// test starts has copies of all descriptors until its program runs.
pub(crate) async fn gone(handle: &Handle, name: &str) -> Result<()> {
    let gone = async {
        while index(handle, name).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(10), gone).await;
    waited.map_err(|_| format!("{name} stays").into())
}

/// An uplink: a veth with an address and a default route of both families.
pub(crate) async fn uplink(handle: &Handle) -> Result<u32> {
    // No duplicate address detection for what the kernel adds by itself either.
    std::fs::write("/proc/sys/net/ipv6/conf/default/accept_dad", "0")?;
    let pair = LinkVeth::new("up0", "up1").build();
    handle.link().add(pair).execute().await?;
    let up = index(handle, "up0").await?;
    for index in [1, up, index(handle, "up1").await?] {
        link_up(handle, index).await?;
    }
    carrier(handle, up).await?;
    add_address(handle, up, "192.0.2.2".parse()?, 24).await?;
    let v4 = RouteMessageBuilder::<std::net::Ipv4Addr>::new()
        .output_interface(up)
        .build();
    handle.route().add(v4).execute().await?;
    let v6 = RouteMessageBuilder::<std::net::Ipv6Addr>::new()
        .output_interface(up)
        .build();
    add_address(handle, up, "2001:db8::2".parse()?, 64).await?;
    handle.route().add(v6).execute().await?;
    Ok(up)
}

/// Adds an address that counts at once: even on an interface without duplicate address detection,
/// the kernel would call one of IPv6 tentative until a worker of its own has looked at it.
pub(crate) async fn add_address(
    handle: &Handle,
    index: u32,
    address: IpAddr,
    prefix: u8,
) -> Result<()> {
    let mut request = handle.address().add(index, address, prefix);
    if address.is_ipv6() {
        request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
    }
    Ok(request.execute().await?)
}

pub(crate) async fn link_up(handle: &Handle, index: u32) -> Result<()> {
    let link = LinkMessageBuilder::<LinkUnspec>::new()
        .index(index)
        .up()
        .build();
    Ok(handle.link().change(link).execute().await?)
}

/// Waits until the other end of a cable is noticed: the kernel does that by and by, and shows routes
/// as "linkdown" until then.
pub(crate) async fn carrier(handle: &Handle, index: u32) -> Result<()> {
    let noticed = async {
        loop {
            let mut links = handle.link().get().match_index(index).execute();
            let link = links.try_next().await?.ok_or("no link")?;
            let up = LinkAttribute::OperState(State::Up);
            if link.attributes.contains(&up) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), noticed).await?
}

pub(crate) async fn rules(handle: &Handle, version: IpVersion) -> Result<Vec<RuleMessage>> {
    let all: Vec<RuleMessage> = handle.rule().get(version).execute().try_collect().await?;
    let inverted = |r: &RuleMessage| r.header.flags.contains(RuleFlags::Invert);
    Ok(all.into_iter().filter(inverted).collect())
}

pub(crate) fn rule_has(rule: &RuleMessage, attribute: RuleAttribute) -> bool {
    rule.attributes.contains(&attribute)
}

/// Kind, metric and device of each route of a table.
pub(crate) async fn routes(
    handle: &Handle,
    family: AddressFamily,
    table: u32,
) -> Result<Vec<(RouteType, u32, Option<u32>, u8)>> {
    let mut query = RouteMessage::default();
    query.header.address_family = family;
    let all: Vec<RouteMessage> = handle.route().get(query).execute().try_collect().await?;
    let mut found = Vec::new();
    for route in all {
        let (mut metric, mut device) = (0, None);
        let mut its_table = u32::from(route.header.table);
        for attribute in &route.attributes {
            match attribute {
                RouteAttribute::Table(t) => its_table = *t,
                RouteAttribute::Priority(p) => metric = *p,
                RouteAttribute::Oif(i) => device = Some(*i),
                _ => {}
            }
        }
        if its_table == table {
            let length = route.header.destination_prefix_length;
            found.push((route.header.kind, metric, device, length));
        }
    }
    found.sort_by_key(|r| r.1);
    Ok(found)
}

/// The addresses of an interface, link-local ones left out, with the time they were last changed.
pub(crate) async fn addresses(handle: &Handle, index: u32) -> Result<Vec<(IpAddr, u32)>> {
    let all: Vec<_> = handle
        .address()
        .get()
        .set_link_index_filter(index)
        .execute()
        .try_collect()
        .await?;
    let mut found = Vec::new();
    for message in all {
        let mut address = None;
        let mut changed = 0;
        for attribute in &message.attributes {
            match attribute {
                AddressAttribute::Address(a) => address = Some(*a),
                AddressAttribute::CacheInfo(info) => changed = info.cstamp,
                _ => {}
            }
        }
        match address {
            Some(IpAddr::V6(a)) if a.is_unicast_link_local() => {}
            Some(a) => found.push((a, changed)),
            None => {}
        }
    }
    found.sort();
    Ok(found)
}

/// Where the kernel would send a packet of this socket: the source it chose, or the error.
pub(crate) fn lookup(mark: Option<u32>, to: &str) -> std::io::Result<IpAddr> {
    let to: SocketAddr = to.parse().unwrap();
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any)?;
    if let Some(mark) = mark {
        socket2::SockRef::from(&socket).set_mark(mark)?;
    }
    socket.connect(to)?;
    Ok(socket.local_addr()?.ip())
}
