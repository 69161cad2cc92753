//! Touches the users of this host: reads what the texts of entries say here. Blocks while the system's name
//! service is asked, up to a limit, so it is done where no packet waits.
//!
//! A rule for a user that this host does not have is about nobody: no program here runs as that user.
//! Whether there is one is asked again ([`Said::again`]). Whom the name service cannot tell of may be there,
//! and run programs: then the text is not read at all. Who was there once stays who it was: a name
//! service that is away when texts are read again takes no rule out of force.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use vpn_core::RuleSnapshot;
use vpn_core::rule::RuleSourceError;

use super::names::{LookUp, NameService, Uid};
use super::table::{MAX_ENTRY, TOO_LONG, wrong};
use crate::source::toml::{TomlRules, uid_of};

/// The number that no user has: systems call it -1.
pub(super) const NOBODY: u32 = u32::MAX;

/// Users whose numbers are remembered; of further ones the name service is believed each time.
const MAX_USERS: usize = 65_536;

/// How long the name service may be asked for texts that are read together. What is left then is as if it
/// could not tell, and is asked first next time: a program that ends waits for this.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a text says on this host.
#[derive(Debug, Default)]
pub(super) struct Said {
    /// How long it is.
    pub(super) bytes: usize,
    /// `None` if it cannot be read.
    pub(super) rules: Option<RuleSnapshot>,
    /// Why it cannot be read, or which user is not there.
    pub(super) problem: Option<Arc<RuleSourceError>>,
    /// The text, if it may say something else later although nobody writes it: when a user is there.
    pub(super) again: Option<Arc<str>>,
}

/// The users of this host.
pub(super) struct Users {
    names: NameService,
    pub(super) patience: Duration,
    /// Who was there once.
    known: Mutex<HashMap<String, u32>>,
}

impl Default for Users {
    fn default() -> Self {
        Self::new(Box::new(uid_of))
    }
}

impl fmt::Debug for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Users").finish_non_exhaustive()
    }
}

/// Reads texts at one time: about each user the name service is asked once.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    users: &'a Users,
    until: Instant,
    answers: RefCell<HashMap<String, Uid>>,
    /// Not all answers came in time.
    ran_out: Cell<bool>,
}

#[derive(Debug)]
enum Answer {
    Is(u32),
    /// It was, and is not found now.
    Was(u32),
    Nobody,
    Failed(String),
}

impl Users {
    pub(super) fn new(look_up: Box<LookUp>) -> Self {
        Self {
            names: NameService::new(look_up),
            patience: PATIENCE,
            known: Mutex::default(),
        }
    }

    pub(super) fn reader(&self) -> Reader<'_> {
        Reader {
            users: self,
            until: Instant::now() + self.patience,
            answers: RefCell::default(),
            ran_out: Cell::new(false),
        }
    }

    fn believe(&self, name: &str, said: Uid) -> Answer {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        match (said, known.get(name)) {
            (Ok(Some(uid)), was) => {
                if was.is_some() || known.len() < MAX_USERS {
                    known.insert(name.to_owned(), uid);
                }
                Answer::Is(uid)
            }
            (_, Some(uid)) => Answer::Was(*uid),
            (Ok(None), None) => Answer::Nobody,
            (Err(problem), None) => Answer::Failed(problem),
        }
    }
}

impl Reader<'_> {
    /// What the text under a key says.
    pub(super) fn read(&self, key: &str, value: &[u8]) -> Said {
        let bytes = value.len();
        let unreadable = |problem| Said {
            bytes,
            problem: Some(Arc::new(problem)),
            ..Said::default()
        };
        if bytes > MAX_ENTRY {
            return unreadable(wrong(key, TOO_LONG));
        }
        let Ok(text) = std::str::from_utf8(value) else {
            return unreadable(wrong(key, "not UTF-8"));
        };
        let missing = RefCell::new(None);
        let users = |name: &str| {
            let answer = self.answer(name);
            let (uid, problem) = match answer {
                Answer::Is(uid) => return Ok(uid),
                Answer::Was(uid) => (Ok(uid), "is not found any more; its rules stay".to_owned()),
                Answer::Nobody => {
                    let problem = "is not on this host; its rules are about nobody";
                    (Ok(NOBODY), problem.to_owned())
                }
                Answer::Failed(problem) => (Err(problem.clone()), problem),
            };
            let problem = wrong(key, &format!("user {name:?}: {problem}"));
            missing.borrow_mut().get_or_insert(problem);
            uid
        };
        let read = TomlRules::parse_with(Path::new(key), text, &users);
        let missing = missing.into_inner();
        let again = missing.is_some().then(|| text.into());
        let (rules, problem) = match read {
            Ok(rules) => (Some(rules), missing),
            Err(problem) => (None, Some(problem.into())),
        };
        Said {
            bytes,
            rules,
            problem: problem.map(Arc::new),
            again,
        }
    }

    fn answer(&self, name: &str) -> Answer {
        let before = self.answers.borrow().get(name).cloned();
        let said = before.or_else(|| {
            let said = self.users.names.ask(name, self.until)?;
            let mut answers = self.answers.borrow_mut();
            answers.insert(name.to_owned(), said.clone());
            Some(said)
        });
        self.ran_out.set(self.ran_out.get() || said.is_none());
        let said = said.unwrap_or_else(|| Err("the name service takes too long".to_owned()));
        self.users.believe(name, said)
    }
}

impl Drop for Reader<'_> {
    /// Whoever reads next begins where this one ended: otherwise a text that needs longer in all would never
    /// be read.
    fn drop(&mut self) {
        if self.ran_out.get() {
            self.users.names.keep(self.answers.take());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    use vpn_core::OwnerMatch;

    const TEXT: &str = "[[rule]]\nuid = 1\nto = \"uk\"\n\
                        [[rule]]\nuser = \"alice\"\nto = \"block\"\n\
                        [[rule]]\nuser = \"alice\"\nto = \"uk\"\n";

    /// Users as a test says: 0 there is nobody, 1 there is alice, otherwise nobody can tell.
    fn users(state: &Arc<AtomicUsize>) -> (Users, Arc<AtomicUsize>) {
        let (state, asked) = (Arc::clone(state), Arc::new(AtomicUsize::new(0)));
        let count = Arc::clone(&asked);
        let look_up = move |_: &str| {
            count.fetch_add(1, SeqCst);
            match state.load(SeqCst) {
                0 => Ok(None),
                1 => Ok(Some(1000)),
                _ => Err("no answer".to_owned()),
            }
        };
        (Users::new(Box::new(look_up)), asked)
    }

    fn owners(said: &Said) -> Option<Vec<u32>> {
        let rules = said.rules.as_ref()?.rules.iter();
        let uid = |owner| match owner {
            Some(OwnerMatch::Uid(uid)) => uid,
            _ => 7,
        };
        Some(rules.map(|rule| uid(rule.matches.owner.clone())).collect())
    }

    fn problem(said: &Said) -> String {
        said.problem
            .as_ref()
            .map_or(String::new(), |p| p.to_string())
    }

    #[test]
    fn a_user_that_is_not_there_makes_its_own_rules_impossible_and_no_others() {
        let state = Arc::new(AtomicUsize::new(0));
        let (users, asked) = users(&state);
        let said = users.reader().read("r/a", TEXT.as_bytes());
        assert_eq!(owners(&said), Some(vec![1, NOBODY, NOBODY]));
        assert!(problem(&said).contains("alice"), "{said:?}");
        assert_eq!(said.again.as_deref(), Some(TEXT));
        assert_eq!(asked.load(SeqCst), 1, "each is asked about once");
        state.store(1, SeqCst);
        let said = users.reader().read("r/a", TEXT.as_bytes());
        assert_eq!(owners(&said), Some(vec![1, 1000, 1000]));
        assert!(said.problem.is_none() && said.again.is_none());
        // Who was there stays who it was, whatever the name service says now.
        for now in [0, 2] {
            state.store(now, SeqCst);
            let said = users.reader().read("r/a", TEXT.as_bytes());
            assert_eq!(owners(&said), Some(vec![1, 1000, 1000]));
            assert!(said.again.is_some());
        }
    }

    #[test]
    fn a_name_service_that_cannot_tell_leaves_the_text_unread_until_it_can() {
        let state = Arc::new(AtomicUsize::new(2));
        let (users, _) = users(&state);
        let said = users.reader().read("r/a", TEXT.as_bytes());
        assert_eq!(owners(&said), None);
        assert!(problem(&said).contains("no answer"), "{said:?}");
        assert!(said.again.is_some());
    }

    #[test]
    fn a_name_service_that_takes_too_long_is_asked_no_further() {
        let (mut users, asked) = users(&Arc::new(AtomicUsize::new(1)));
        users.patience = Duration::ZERO;
        let said = users.reader().read("r/a", TEXT.as_bytes());
        assert_eq!((owners(&said), asked.load(SeqCst)), (None, 0));
        assert!(problem(&said).contains("too long"), "{said:?}");
        assert!(said.again.is_some());
    }

    #[test]
    fn a_slow_name_service_is_asked_on_where_it_was_left() {
        let name = |user: usize| format!("[[rule]]\nuser = \"u{user}\"\nto = \"uk\"\n");
        let text: String = (0..8).map(name).collect();
        // All together take longer than the patience, and so does one alone.
        for (patience, each) in [(300, 100), (20, 100)] {
            let look_up = move |_: &str| {
                std::thread::sleep(Duration::from_millis(each));
                Ok(Some(1000))
            };
            let mut users = Users::new(Box::new(look_up));
            users.patience = Duration::from_millis(patience);
            let until = Instant::now() + Duration::from_secs(60);
            while owners(&users.reader().read("r/a", text.as_bytes())).is_none() {
                assert!(Instant::now() < until, "it is never read");
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }

    #[test]
    fn what_makes_no_sense_is_not_asked_about_again() {
        let users = Users::default();
        let long = vec![b'#'; MAX_ENTRY + 1];
        for wrong in [&b"what"[..], b"\xff", &long] {
            let said = users.reader().read("r/a", wrong);
            assert!(said.rules.is_none() && said.again.is_none(), "{said:?}");
            assert!(problem(&said).contains("r/a"), "{said:?}");
        }
    }
}
