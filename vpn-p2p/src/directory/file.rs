//! A directory that is a file: one signed record on each line, in base64; `#` begins a comment.
//!
//! For networks whose members rarely change, and for the first peers of one that starts from nothing.
//! The file needs no protection from changes: a line that nobody signed is not believed. Who can write
//! it can leave peers out, or bring back the older of two records.

use std::io::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use vpn_core::{DirectoryError, PeerDirectory, PeerId, PeerRecord};

use super::book::Book;
use super::clock::UnixClock;
use super::news::News;
use super::records::{RecordError, Terms, decode, encode};

/// Longest file, in bytes: more than the records of 10,000 peers usually take.
pub const MAX_FILE: u64 = 16 * 1024 * 1024;

/// Why a file of records cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// It cannot be read or written.
    #[error("{path}: cannot read or write the records", path = path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        cause: std::io::Error,
    },
    /// It is longer than [`MAX_FILE`].
    #[error("{path}: longer than {MAX_FILE} bytes", path = path.display())]
    TooLong {
        /// Which file.
        path: PathBuf,
    },
    /// A line is neither a comment nor a record in base64.
    #[error("{path}: line {line}: not a record", path = path.display())]
    Line {
        /// Which file.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
    },
}

/// Reads the records of a file, and believes none of them.
///
/// # Errors
///
/// [`FileError`]; none of the records is returned then.
pub fn read_records(path: impl AsRef<Path>) -> Result<Vec<PeerRecord>, FileError> {
    let path = path.as_ref();
    let file = |cause| FileError::File {
        path: path.into(),
        cause,
    };
    if std::fs::metadata(path).map_err(file)?.len() > MAX_FILE {
        return Err(FileError::TooLong { path: path.into() });
    }
    let text = std::fs::read_to_string(path).map_err(file)?;
    let mut records = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        let bytes = STANDARD.decode(line).ok();
        let record = bytes.and_then(|bytes| decode(&bytes).ok());
        records.push(record.ok_or_else(|| FileError::Line {
            path: path.into(),
            line: number + 1,
        })?);
    }
    Ok(records)
}

/// Writes records to a file that [`read_records`] reads. It is replaced whole, so that a crash leaves
/// the one or the other.
///
/// # Errors
///
/// [`FileError::File`].
pub fn write_records<'a>(
    path: impl AsRef<Path>,
    records: impl IntoIterator<Item = &'a PeerRecord>,
) -> Result<(), FileError> {
    let path = path.as_ref();
    let write = || {
        let mut name = path.as_os_str().to_owned();
        name.push(".new");
        let mut file = std::fs::File::create(&name)?;
        for record in records {
            writeln!(
                file,
                "{} # {}",
                STANDARD.encode(encode(record)),
                record.peer
            )?;
        }
        file.sync_all()?;
        std::fs::rename(&name, path)
    };
    write().map_err(|cause| FileError::File {
        path: path.into(),
        cause,
    })
}

/// A directory that is a file. It is read once, and again when it is told to.
#[derive(Debug)]
pub struct StaticDirectory {
    path: PathBuf,
    book: Mutex<Book>,
    news: News,
    clock: UnixClock,
}

impl StaticDirectory {
    /// Reads the file. Records that are not believed are left out and told to the log. The terms'
    /// `max_validity` is as long as the file is to last: years, say, instead of a day. Blocks.
    ///
    /// # Errors
    ///
    /// [`FileError`].
    pub fn open(path: impl Into<PathBuf>, terms: Terms) -> Result<Self, FileError> {
        Self::with(path, Book::new(terms), UnixClock::default())
    }

    /// Reads the file into this book: it may have members, and records from elsewhere. Blocks.
    ///
    /// # Errors
    ///
    /// [`FileError`].
    pub fn with(path: impl Into<PathBuf>, book: Book, clock: UnixClock) -> Result<Self, FileError> {
        let directory = Self {
            path: path.into(),
            book: Mutex::new(book),
            news: News::default(),
            clock,
        };
        directory.reload()?;
        Ok(directory)
    }

    /// Reads the file again. Peers that are not in it any more are forgotten. Blocks.
    ///
    /// # Errors
    ///
    /// [`FileError`]; everything is as it was then.
    pub fn reload(&self) -> Result<(), FileError> {
        let records = read_records(&self.path)?;
        let unix = self.clock.now();
        let mut news = Vec::new();
        let mut book = self.book();
        let there: Vec<PeerId> = book.records(unix).map(|record| record.peer).collect();
        for peer in there {
            if !records.iter().any(|record| record.peer == peer) {
                book.remove(peer);
            }
        }
        for record in records {
            let peer = record.peer;
            match book.insert(record, unix) {
                Ok(conflicts) => {
                    conflicts.iter().for_each(super::Conflict::report);
                    news.push(peer);
                }
                Err(RecordError::Old { .. }) => {}
                Err(error) => {
                    tracing::warn!(path = %self.path.display(), %peer, %error, "record left out");
                }
            }
        }
        drop(book);
        news.into_iter().for_each(|peer| self.news.tell(peer));
        Ok(())
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A directory that is a file is written by people.
#[derive(Debug, thiserror::Error)]
#[error("this directory is a file, and only read")]
struct ReadOnly;

#[async_trait]
impl PeerDirectory for StaticDirectory {
    /// Refused: add a line to the file.
    async fn publish(&self, record: PeerRecord) -> Result<(), DirectoryError> {
        let have = self.book().sequence(record.peer);
        match have.filter(|have| *have >= record.sequence) {
            Some(have) => Err(RecordError::Old { have }.of(record.sequence)),
            None => Err(DirectoryError::Refused(Box::new(ReadOnly))),
        }
    }

    async fn resolve(&self, peer: PeerId) -> Result<Option<PeerRecord>, DirectoryError> {
        Ok(self.book().get(peer, self.clock.now()).cloned())
    }

    async fn resolve_address(&self, address: IpAddr) -> Result<Vec<PeerRecord>, DirectoryError> {
        let book = self.book();
        Ok(book.claimants(address, self.clock.now()).cloned().collect())
    }

    async fn changed(&self) -> Result<PeerRecord, DirectoryError> {
        let look = |peer| self.book().get(peer, self.clock.now()).cloned();
        Ok(self.news.next(look).await)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::records::Draft;
    use crate::identity::Identity;

    const TERMS: Terms = Terms::new(b"test record v1\0");

    fn record(peer: u8, sequence: u64) -> PeerRecord {
        let draft = Draft {
            sequence,
            expires: UnixClock::default().now() + 1000,
            ..Draft::default()
        };
        draft
            .sign(&Identity::from_bytes(&[peer; 32]), &TERMS)
            .unwrap()
    }

    #[tokio::test]
    async fn what_is_written_is_read_and_what_nobody_signed_is_left_out() {
        let folder = std::env::temp_dir().join(format!("records-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("peers");
        let mut forged = record(2, 1);
        forged.sequence = 2;
        write_records(&path, [&record(1, 1), &forged]).unwrap();
        let directory = StaticDirectory::open(&path, TERMS).unwrap();
        assert_eq!(directory.changed().await.unwrap(), record(1, 1));
        assert!(directory.resolve(forged.peer).await.unwrap().is_none());
        let refused = directory.publish(record(3, 1)).await;
        assert!(matches!(refused, Err(DirectoryError::Refused(_))));
        // A file that cannot be read changes nothing; who is left out is gone; nothing older comes back.
        std::fs::write(&path, "# a comment\n\nno record\n").unwrap();
        let wrong = directory.reload();
        assert!(
            matches!(wrong, Err(FileError::Line { line: 3, .. })),
            "{wrong:?}"
        );
        assert!(
            directory
                .resolve(record(1, 1).peer)
                .await
                .unwrap()
                .is_some()
        );
        write_records(&path, [&record(1, 2), &record(3, 1)]).unwrap();
        directory.reload().unwrap();
        write_records(&path, [&record(1, 1)]).unwrap();
        directory.reload().unwrap();
        let newest = directory.resolve(record(1, 1).peer).await.unwrap();
        assert_eq!(newest.map(|record| record.sequence), Some(2));
        assert!(
            directory
                .resolve(record(3, 1).peer)
                .await
                .unwrap()
                .is_none()
        );
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
