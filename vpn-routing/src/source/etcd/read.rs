//! Touches the users of this host: reads what came from etcd beside the threads that carry packets, and reads
//! again, from time to time, what named a user that was not there.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::Shared;
use super::follow::Cause;
use super::text::Said;

/// How often texts are read again that name users who are not there: so long after one is made, its rules
/// are about it.
const AGAIN: Duration = Duration::from_secs(5);

/// An entry as etcd tells of it.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) key: Vec<u8>,
    pub(super) revision: i64,
    /// `None` if it was deleted, or is too long.
    pub(super) value: Option<Vec<u8>>,
}

/// An entry, and what its text says on this host.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) key: Vec<u8>,
    pub(super) revision: i64,
    pub(super) said: Option<Said>,
}

impl Shared {
    /// Reads all of them, in their order. The state is not locked meanwhile: users may be looked up for long.
    pub(super) async fn read(&self, all: Vec<Written>) -> Result<Vec<Read>, Cause> {
        if all.is_empty() {
            return Ok(Vec::new());
        }
        let users = Arc::clone(&self.users);
        let read = move || {
            let reader = users.reader();
            let of = |entry: Written| Read {
                said: entry.value.map(|value| {
                    let key = String::from_utf8_lossy(&entry.key);
                    reader.read(&key, &value)
                }),
                key: entry.key,
                revision: entry.revision,
            };
            all.into_iter().map(of).collect()
        };
        Ok(spawn_blocking(read).await?)
    }
}

/// Reads again what is to be read again, until the task is aborted.
pub(super) async fn read_again(shared: Arc<Shared>) {
    loop {
        sleep(AGAIN).await;
        let texts = shared.state().table.texts_to_read_again();
        if texts.is_empty() {
            continue;
        }
        let users = Arc::clone(&shared.users);
        let read = move || {
            let reader = users.reader();
            let of = |(key, text): (String, Arc<str>)| {
                let said = reader.read(&key, text.as_bytes());
                (key, text, said)
            };
            texts.into_iter().map(of).collect::<Vec<_>>()
        };
        // Fails only at the end of the program.
        let Ok(all) = spawn_blocking(read).await else {
            continue;
        };
        let (mut is_other, mut has_room) = (false, false);
        {
            let mut state = shared.state();
            for (key, text, said) in all {
                let news = state.table.read_again(&key, &text, said);
                is_other |= news.0;
                has_room |= news.1;
            }
            shared.judge(&state);
        }
        if has_room {
            shared.room.notify_one();
        }
        if is_other {
            shared.changes.count();
        }
    }
}
