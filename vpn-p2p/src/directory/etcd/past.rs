//! Touches etcd: whether it still has what was read from it. One that was made anew with the same options has
//! the same id, and may be at a larger revision already: what happened on the way is in no watch.

use etcd_client::{Client, GetOptions, GetResponse, SortOrder, SortTarget};

use super::Shared;
use super::connection::is_out_of_range;
use super::error::EtcdError;
use super::keys::KINDS;

/// By what etcd is known again: what it has of each kind of entries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Past([Entries; KINDS]);

/// The entries of a kind, also those that are not believed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Entries {
    /// How many there are.
    count: i64,
    /// Which was written last, and when; `None` if that is not known.
    newest: Option<(Vec<u8>, i64)>,
}

impl Past {
    /// There are so many entries of a kind.
    pub(super) fn counted(&mut self, kind: usize, count: i64) {
        self.0[kind].count = count;
    }

    /// There is an entry, and when it was written.
    pub(super) fn seen(&mut self, kind: usize, key: &[u8], written: i64) {
        let newest = &mut self.0[kind].newest;
        if newest.as_ref().is_none_or(|(_, last)| *last <= written) {
            *newest = Some((key.to_vec(), written));
        }
    }

    /// An entry was written; whether there was none before.
    pub(super) fn wrote(&mut self, kind: usize, key: &[u8], written: i64, is_new: bool) {
        self.seen(kind, key, written);
        self.0[kind].count += i64::from(is_new);
    }

    /// An entry was deleted.
    pub(super) fn deleted(&mut self, kind: usize, key: &[u8]) {
        let entries = &mut self.0[kind];
        entries.count -= 1;
        entries.newest.take_if(|(newest, _)| newest == key);
    }

    /// Whether etcd was like this at the revision up to which all is known. Not if that was compacted, or
    /// there is nothing that it could be known by: then everything has to be loaded in any case.
    pub(super) async fn is_there(
        &self,
        shared: &Shared,
        client: &mut Client,
        reached: i64,
    ) -> Result<bool, EtcdError> {
        let mut is_known = false;
        for (entries, prefix) in self.0.iter().zip(shared.keys.kinds()) {
            let then = || GetOptions::new().with_prefix().with_revision(reached);
            // How many there are is told at once, also of more and longer ones than are ours.
            let counted = got(shared, client, &prefix, then().with_count_only()).await?;
            if counted.is_none_or(|there| there.count() != entries.count) {
                return Ok(false);
            }
            if entries.count == 0 {
                continue;
            }
            let newest = then()
                .with_sort(SortTarget::Mod, SortOrder::Descend)
                .with_limit(1)
                .with_keys_only();
            let there = got(shared, client, &prefix, newest).await?;
            if !there.is_some_and(|there| entries.has_newest_of(&there)) {
                return Ok(false);
            }
            is_known = true;
        }
        Ok(is_known)
    }
}

impl Entries {
    fn has_newest_of(&self, there: &GetResponse) -> bool {
        let newest = self.newest.as_ref().zip(there.kvs().first());
        newest.is_some_and(|((key, written), there)| {
            there.key() == key.as_slice() && there.mod_revision() == *written
        })
    }
}

/// `None` if that revision is not there, or to look it through takes too long: page by page it does not.
async fn got(
    shared: &Shared,
    client: &mut Client,
    prefix: &str,
    options: GetOptions,
) -> Result<Option<GetResponse>, EtcdError> {
    let there = client.get(prefix, Some(options));
    match shared.connection.within(there).await {
        Ok(there) => Ok(Some(there)),
        Err(EtcdError::Late { .. }) => Ok(None),
        Err(error) if is_out_of_range(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_entry_that_was_written_last_is_asked_for_until_it_is_deleted() {
        let mut past = Past::default();
        past.counted(0, 5);
        past.seen(0, b"a", 3);
        past.wrote(0, b"b", 7, true);
        past.wrote(0, b"a", 5, false);
        let of = |count, newest: Option<(&[u8], i64)>| Entries {
            count,
            newest: newest.map(|(key, written)| (key.to_vec(), written)),
        };
        assert_eq!(past.0[0], of(6, Some((b"b", 7))));
        past.deleted(0, b"a");
        assert_eq!(past.0[0], of(5, Some((b"b", 7))));
        past.deleted(0, b"b");
        assert_eq!(past.0, [of(4, None), of(0, None)]);
    }
}
