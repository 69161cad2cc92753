//! Endpoint-independent mappings: which endpoint of a tunnel stands for which of the device.

use std::hash::BuildHasher;
use std::net::IpAddr;

use foldhash::quality::RandomState;
use hashbrown::HashTable;
use vpn_core::{Protocol, TunnelId};

use super::ports::{PortsExhausted, RandomPorts};

/// An address with a port, or with the identifier of an ICMP echo.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// The address.
    pub addr: IpAddr,
    /// The port or identifier.
    pub port: u16,
}

impl Endpoint {
    /// This port at this address.
    pub const fn new(addr: IpAddr, port: u16) -> Self {
        Self { addr, port }
    }
}

/// A mapping that a flow counts in; given back once, with [`release`](Mappings::release).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MappingId(u32);

impl MappingId {
    pub(crate) const fn new(index: u32) -> Self {
        Self(index)
    }

    pub(crate) const fn index(self) -> u32 {
        self.0
    }
}

/// Endpoints of one space differ; those of two have nothing to do with each other.
pub type Space = (TunnelId, Protocol);

#[derive(Clone, Debug)]
struct Mapping {
    space: Space,
    device: Endpoint,
    wire: Endpoint,
    flows: u32,
}

impl Mapping {
    fn is_device(&self, space: Space, device: Endpoint) -> bool {
        self.space == space && self.device == device
    }

    fn is_wire(&self, space: Space, wire: Endpoint) -> bool {
        self.space == space && self.wire == wire
    }
}

/// All mappings of a router. At most one per flow, so the bound of flows bounds them: 48 bytes
/// each, and 10 in the two indices.
#[derive(Debug)]
pub struct Mappings {
    slab: Vec<Mapping>,
    free: Vec<u32>,
    /// Without those that one flow has for itself.
    by_device: HashTable<u32>,
    by_wire: HashTable<u32>,
    hasher: RandomState,
    ports: RandomPorts,
}

impl Mappings {
    /// No mappings. Ports for collisions come from `seed`, or from the operating system's
    /// randomness.
    pub fn new(seed: Option<u64>) -> Self {
        Self {
            slab: Vec::new(),
            free: Vec::new(),
            by_device: HashTable::new(),
            by_wire: HashTable::new(),
            hasher: RandomState::default(),
            ports: RandomPorts::new(seed),
        }
    }

    /// How many mappings there are.
    pub fn len(&self) -> usize {
        self.by_wire.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.by_wire.is_empty()
    }

    /// The endpoint that stands for `device` in this tunnel: the one it has already, else
    /// `wanted` if that is free and `allowed`, else one with another port.
    ///
    /// # Errors
    ///
    /// [`PortsExhausted`]; nothing changes then.
    pub fn acquire(
        &mut self,
        space: Space,
        device: Endpoint,
        wanted: Endpoint,
        allowed: impl Fn(u16) -> bool,
    ) -> Result<(MappingId, Endpoint), PortsExhausted> {
        if let Some(known) = self.find_device(space, device) {
            let mapping = &mut self.slab[known as usize];
            mapping.flows += 1;
            return Ok((MappingId(known), mapping.wire));
        }
        let wire = match allowed(wanted.port) && self.find_wire(space, wanted).is_none() {
            true => wanted,
            false => self.draw(space, wanted.addr, allowed)?,
        };
        Ok((self.insert(space, device, wire, false), wire))
    }

    /// An endpoint that one flow of `device` has for itself, whatever its others have: for two
    /// queries of one socket that are steered to one resolver.
    ///
    /// # Errors
    ///
    /// [`PortsExhausted`]; nothing changes then.
    pub fn acquire_apart(
        &mut self,
        space: Space,
        device: Endpoint,
        addr: IpAddr,
        allowed: impl Fn(u16) -> bool,
    ) -> Result<(MappingId, Endpoint), PortsExhausted> {
        let wire = self.draw(space, addr, allowed)?;
        Ok((self.insert(space, device, wire, true), wire))
    }

    /// Exactly this pair, for a flow that somebody else started. `None` if `wire` stands for
    /// another endpoint of the device.
    pub fn acquire_exact(
        &mut self,
        space: Space,
        device: Endpoint,
        wire: Endpoint,
    ) -> Option<MappingId> {
        if let Some(known) = self.find_wire(space, wire) {
            let mapping = &mut self.slab[known as usize];
            if mapping.device != device {
                return None;
            }
            mapping.flows += 1;
            return Some(MappingId(known));
        }
        let apart = self.find_device(space, device).is_some();
        Some(self.insert(space, device, wire, apart))
    }

    /// A flow that counted in a mapping is gone; the mapping goes with the last.
    pub fn release(&mut self, id: MappingId) {
        let Some(mapping) = self.slab.get_mut(id.0 as usize) else {
            return;
        };
        mapping.flows = mapping.flows.saturating_sub(1);
        if mapping.flows > 0 {
            return;
        }
        let (device, wire) = (
            self.hasher.hash_one((mapping.space, mapping.device)),
            self.hasher.hash_one((mapping.space, mapping.wire)),
        );
        if let Ok(found) = self.by_wire.find_entry(wire, |&i| i == id.0) {
            found.remove();
            self.free.push(id.0);
        }
        if let Ok(found) = self.by_device.find_entry(device, |&i| i == id.0) {
            found.remove();
        }
    }

    /// Where ports for collisions come from.
    pub fn ports(&mut self) -> &mut RandomPorts {
        &mut self.ports
    }

    fn draw(
        &mut self,
        space: Space,
        addr: IpAddr,
        allowed: impl Fn(u16) -> bool,
    ) -> Result<Endpoint, PortsExhausted> {
        let (slab, by_wire, hasher) = (&self.slab, &self.by_wire, &self.hasher);
        let taken = |port| {
            let wire = Endpoint::new(addr, port);
            let is = |&i: &u32| slab[i as usize].is_wire(space, wire);
            by_wire.find(hasher.hash_one((space, wire)), is).is_some()
        };
        let port = self.ports.draw(|port| allowed(port) && !taken(port))?;
        Ok(Endpoint::new(addr, port))
    }

    fn find_device(&self, space: Space, device: Endpoint) -> Option<u32> {
        let is = |&i: &u32| self.slab[i as usize].is_device(space, device);
        let hash = self.hasher.hash_one((space, device));
        self.by_device.find(hash, is).copied()
    }

    fn find_wire(&self, space: Space, wire: Endpoint) -> Option<u32> {
        let is = |&i: &u32| self.slab[i as usize].is_wire(space, wire);
        let hash = self.hasher.hash_one((space, wire));
        self.by_wire.find(hash, is).copied()
    }

    fn insert(&mut self, space: Space, device: Endpoint, wire: Endpoint, apart: bool) -> MappingId {
        let mapping = Mapping {
            space,
            device,
            wire,
            flows: 1,
        };
        let index = match self.free.pop() {
            Some(index) => {
                self.slab[index as usize] = mapping;
                index
            }
            None => {
                self.slab.push(mapping);
                (self.slab.len() - 1) as u32
            }
        };
        let (slab, hasher) = (&self.slab, &self.hasher);
        let of_wire = |&i: &u32| hasher.hash_one((slab[i as usize].space, slab[i as usize].wire));
        let of_device =
            |&i: &u32| hasher.hash_one((slab[i as usize].space, slab[i as usize].device));
        self.by_wire.insert_unique(of_wire(&index), index, of_wire);
        if !apart {
            self.by_device
                .insert_unique(of_device(&index), index, of_device);
        }
        MappingId(index)
    }
}
