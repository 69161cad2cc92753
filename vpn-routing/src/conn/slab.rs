//! Places for flows of one family: pages that never move, so that growth copies nothing.

use super::Conn;
use super::record::{Addresses, Record};

/// Records in a page: 32 KiB of IPv4 flows.
const PAGE: usize = 512;

#[derive(Debug)]
pub(super) struct Slab<A> {
    pages: Vec<Vec<Record<A>>>,
    /// Of the free places below `len`, the one to be taken next.
    free: Option<u32>,
    len: u32,
    /// Records in a page: fewer if there will never be more.
    page: usize,
}

impl<A: Addresses> Slab<A> {
    /// For up to `max` flows.
    pub(super) fn new(max: usize) -> Self {
        Self {
            pages: Vec::new(),
            free: None,
            len: 0,
            page: PAGE.min(max),
        }
    }

    /// Places that were ever taken.
    pub(super) const fn len(&self) -> u32 {
        self.len
    }

    #[inline(always)]
    pub(super) fn get(&self, index: u32) -> Option<&Record<A>> {
        let index = index as usize;
        self.pages.get(index / PAGE)?.get(index % PAGE)
    }

    #[inline(always)]
    pub(super) fn get_mut(&mut self, index: u32) -> Option<&mut Record<A>> {
        let index = index as usize;
        self.pages.get_mut(index / PAGE)?.get_mut(index % PAGE)
    }

    /// Takes a place.
    pub(super) fn insert(&mut self, conn: &Conn) -> u32 {
        let record = Record::new(conn);
        if let Some(index) = self.free {
            if let Some(place) = self.get_mut(index) {
                let next = place.next_free();
                *place = record;
                self.free = next;
            }
            return index;
        }
        let index = self.len;
        self.len += 1;
        match self.pages.last_mut().filter(|page| page.len() < PAGE) {
            Some(page) => page.push(record),
            None => {
                let mut page = Vec::with_capacity(self.page);
                page.push(record);
                self.pages.push(page);
            }
        }
        index
    }

    /// Frees a place.
    pub(super) fn remove(&mut self, index: u32) -> Option<Conn> {
        let next = self.free;
        let place = self.get_mut(index)?;
        let conn = place.conn()?;
        place.free(next);
        self.free = Some(index);
        Some(conn)
    }
}
