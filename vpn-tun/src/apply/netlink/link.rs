//! Links: which there are, their state, their queues, their addresses.

use std::net::IpAddr;

use futures_util::{StreamExt as _, TryStreamExt as _};
use ipnet::IpNet;
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage};
use rtnetlink::packet_route::tc::{TcAttribute, TcHandle, TcMessage};
use rtnetlink::{LinkMessageBuilder, LinkUnspec};

use super::{Netlink, cause_of, done, failed, gone};
use crate::apply::config::{ApplyError, Step};

/// The kind of queue that is none (tc(8)).
const NO_QUEUE: &str = "noqueue";

/// What is known of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LinkSeen {
    /// Administratively up.
    pub(crate) up: bool,
    /// In bytes.
    pub(crate) mtu: u16,
    /// It carries frames, or is the host's own: no tunnel of IP packets.
    pub(crate) frames: bool,
}

impl Netlink {
    /// Index, name and MTU of every interface.
    pub(crate) async fn links(&self) -> Result<Vec<(u32, String, u32)>, ApplyError> {
        let all = self.all_links().await?;
        Ok(all.iter().map(described).collect())
    }

    /// Every interface.
    pub(crate) async fn all_links(&self) -> Result<Vec<LinkMessage>, ApplyError> {
        let all = self.handle.link().get().execute().try_collect().await;
        all.map_err(|e| failed(Step::Dump("interfaces"), cause_of(e)))
    }

    /// Every address of every interface.
    pub(crate) async fn addresses(&self) -> Result<Vec<AddressMessage>, ApplyError> {
        let all = self.handle.address().get().execute().try_collect().await;
        all.map_err(|e| failed(Step::Dump("addresses"), cause_of(e)))
    }

    pub(crate) async fn link_up(&self, index: u32) -> Result<(), ApplyError> {
        let link = LinkMessageBuilder::<LinkUnspec>::new()
            .index(index)
            .up()
            .build();
        done(
            Step::LinkUp,
            self.handle.link().change(link).execute().await,
        )
    }

    /// Whether the queue before a link is the kernel's own, and not one that somebody chose.
    pub(crate) async fn has_own_queue(&self, index: u32) -> Result<bool, ApplyError> {
        let root = self.queue_of(index).await?;
        // The kernel's own have no handle.
        Ok(root.is_none_or(|root| root.header.handle.major == 0))
    }

    async fn queue_of(&self, index: u32) -> Result<Option<TcMessage>, ApplyError> {
        let index = i32::try_from(index).unwrap_or_default();
        let all: Vec<TcMessage> = self
            .handle
            .qdisc()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(|error| failed(Step::Dump("queues"), cause_of(error)))?;
        let of_link = |message: &TcMessage| {
            message.header.index == index && message.header.parent == TcHandle::ROOT
        };
        Ok(all.into_iter().find(of_link))
    }

    /// Sends what is written to a link at once: a full one says so (`ENOBUFS`).
    pub(crate) async fn no_queue(&self, index: u32) -> Result<(), ApplyError> {
        let mut queue = root_queue(i32::try_from(index).unwrap_or_default());
        let kind = TcAttribute::Kind(NO_QUEUE.to_owned());
        queue.attributes.push(kind);
        let replace = RouteNetlinkMessage::NewQueueDiscipline(queue);
        let result = self.tell(replace, NLM_F_CREATE | NLM_F_REPLACE).await;
        done(Step::NoQueue, result)
    }

    /// Gives a link the kernel's own queue again, unless somebody chose another one meanwhile.
    pub(crate) async fn own_queue(&self, index: u32) -> Result<(), ApplyError> {
        let ours = TcAttribute::Kind(NO_QUEUE.to_owned());
        let root = self.queue_of(index).await?;
        if root.is_some_and(|root| !root.attributes.contains(&ours)) {
            return Ok(());
        }
        let queue = root_queue(i32::try_from(index).unwrap_or_default());
        let delete = RouteNetlinkMessage::DelQueueDiscipline(queue);
        gone(Step::NoQueue, self.tell(delete, 0).await)
    }

    /// A request that the library has no call for.
    async fn tell(&self, message: RouteNetlinkMessage, flags: u16) -> Result<(), rtnetlink::Error> {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        let mut answers = self.handle.clone().request(request)?;
        while let Some(answer) = answers.next().await {
            if let NetlinkPayload::Error(error) = answer.payload
                && error.code.is_some()
            {
                return Err(rtnetlink::Error::NetlinkError(error));
            }
        }
        Ok(())
    }

    /// Whether a link is up, and its MTU; `None` if there is none of that index.
    pub(crate) async fn link(&self, index: u32) -> Result<Option<LinkSeen>, ApplyError> {
        let mut found = self.handle.link().get().match_index(index).execute();
        let link = match found.try_next().await.map_err(cause_of) {
            Ok(link) => link,
            Err(cause) if cause.raw_os_error() == Some(libc::ENODEV) => None,
            Err(cause) => return Err(failed(Step::Dump("links"), cause)),
        };
        Ok(link.map(|link| LinkSeen {
            up: link.header.flags.contains(LinkFlags::Up),
            mtu: u16::try_from(described(&link).2).unwrap_or(u16::MAX),
            frames: matches!(
                link.header.link_layer_type,
                LinkLayerType::Ether | LinkLayerType::Loopback
            ),
        }))
    }

    /// The addresses of a link, those of the link's own making apart (RFC 4291 §2.5.6).
    pub(crate) async fn addresses_of(&self, index: u32) -> Result<Vec<IpNet>, ApplyError> {
        let all = self.addresses().await?;
        let of_link = all.iter().filter(|message| message.header.index == index);
        Ok(of_link.filter_map(assigned).collect())
    }

    pub(crate) async fn link_down(&self, index: u32) -> Result<(), ApplyError> {
        let link = LinkMessageBuilder::<LinkUnspec>::new()
            .index(index)
            .down()
            .build();
        gone(
            Step::LinkDown,
            self.handle.link().change(link).execute().await,
        )
    }

    pub(crate) async fn set_mtu(&self, index: u32, mtu: u16) -> Result<(), ApplyError> {
        let link = LinkMessageBuilder::<LinkUnspec>::new()
            .index(index)
            .mtu(mtu.into())
            .build();
        done(
            Step::Mtu(mtu),
            self.handle.link().change(link).execute().await,
        )
    }
}

/// The address a message is about, unless it is one of a link's own making.
fn assigned(message: &AddressMessage) -> Option<IpNet> {
    let (mut local, mut address) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(its) => local = Some(*its),
            AddressAttribute::Address(its) => address = Some(*its),
            _ => {}
        }
    }
    // Of a pair the other address is the far end's; IPv6 without a pair has no "local".
    let address = local.or(address)?;
    let link_local = matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
    let net = IpNet::new(address, message.header.prefix_len).ok()?;
    (!link_local).then_some(net)
}

/// The queue before a link.
fn root_queue(index: i32) -> TcMessage {
    let mut message = TcMessage::with_index(index);
    message.header.parent = TcHandle::ROOT;
    message
}

fn described(link: &LinkMessage) -> (u32, String, u32) {
    let (mut name, mut mtu) = (String::new(), 0);
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::IfName(its) => name.clone_from(its),
            LinkAttribute::Mtu(its) => mtu = *its,
            _ => {}
        }
    }
    (link.header.index, name, mtu)
}
