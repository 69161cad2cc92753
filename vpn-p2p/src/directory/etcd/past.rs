//! Touches etcd: whether it still has what was read from it. One that was made anew with the same options has
//! the same id, and may be at a larger revision already: what happened on the way is in no watch.

use etcd_client::{Client, GetOptions};

use super::Shared;
use super::connection::is_out_of_range;
use super::error::EtcdError;

/// An entry that is known, and which revision of etcd wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Witness {
    pub(super) key: Vec<u8>,
    pub(super) written: i64,
}

impl Witness {
    /// An entry was written: the one that was last is the one to ask for.
    pub(super) fn wrote(last: &mut Option<Self>, key: &[u8], written: i64) {
        if last.as_ref().is_none_or(|last| last.written <= written) {
            let key = key.to_vec();
            *last = Some(Self { key, written });
        }
    }

    /// An entry was deleted.
    pub(super) fn deleted(last: &mut Option<Self>, key: &[u8]) {
        last.take_if(|last| last.key == key);
    }

    /// Whether it is as it was at the revision up to which all is known. Not if that was compacted: then
    /// everything has to be loaded in any case.
    pub(super) async fn is_there(
        &self,
        shared: &Shared,
        client: &mut Client,
        reached: i64,
    ) -> Result<bool, EtcdError> {
        let then = GetOptions::new().with_revision(reached).with_keys_only();
        let there = client.get(self.key.clone(), Some(then));
        match shared.connection.within(there).await {
            Ok(there) => {
                let entry = there.kvs().first();
                Ok(entry.is_some_and(|entry| entry.mod_revision() == self.written))
            }
            Err(error) if is_out_of_range(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_entry_that_was_written_last_is_asked_for_until_it_is_deleted() {
        let mut last = None;
        Witness::wrote(&mut last, b"a", 3);
        Witness::wrote(&mut last, b"b", 7);
        Witness::wrote(&mut last, b"c", 5);
        let of = |key: &[u8], written| {
            Some(Witness {
                key: key.to_vec(),
                written,
            })
        };
        assert_eq!(last, of(b"b", 7));
        Witness::deleted(&mut last, b"a");
        assert_eq!(last, of(b"b", 7));
        Witness::deleted(&mut last, b"b");
        assert_eq!(last, None);
    }
}
