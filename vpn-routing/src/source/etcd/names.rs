//! Touches the system's name service, in a thread of its own: nobody waits for an answer longer than it means
//! to, and what hangs, hangs once.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, Sender, channel, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Who a user is, as the name service has it: `None` if there is none of this name.
pub(super) type Uid = Result<Option<u32>, String>;

/// Asks the name service; returns when it likes.
pub(super) type LookUp = dyn Fn(&str) -> Uid + Send + Sync;

/// Questions at a time: of who follows and of who reads again. A further one is behind one that hangs, and is
/// not asked.
const MAX_ASKED: usize = 2;

/// How long an answer that came too late is worth something to who asks next.
const FRESH: Duration = Duration::from_secs(60);

/// Answers that are kept for who asks next; of further ones it is asked again.
const MAX_KEPT: usize = 65_536;

/// The name service of this host.
pub(super) struct NameService {
    shared: Arc<Shared>,
    /// To the thread, once there is one.
    questions: Mutex<Option<Sender<Question>>>,
}

struct Shared {
    look_up: Box<LookUp>,
    asked: AtomicUsize,
    kept: Mutex<HashMap<String, (Instant, Uid)>>,
}

struct Question {
    name: String,
    until: Instant,
    answer: std::sync::mpsc::SyncSender<Uid>,
    _place: Place,
}

/// One of [`MAX_ASKED`].
struct Place(Arc<Shared>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.asked.fetch_sub(1, SeqCst);
    }
}

impl NameService {
    pub(super) fn new(look_up: Box<LookUp>) -> Self {
        let shared = Shared {
            look_up,
            asked: AtomicUsize::new(0),
            kept: Mutex::default(),
        };
        Self {
            shared: Arc::new(shared),
            questions: Mutex::default(),
        }
    }

    /// Its answer, or one that was kept; `None` if there is none by then. One that comes later is kept.
    pub(super) fn ask(&self, name: &str, until: Instant) -> Option<Uid> {
        let kept = lock(&self.shared.kept).remove(name);
        if let Some((_, said)) = kept.filter(|(came, _)| came.elapsed() < FRESH) {
            return Some(said);
        }
        let before = self.shared.asked.fetch_add(1, SeqCst);
        let place = Place(Arc::clone(&self.shared));
        let left = until.saturating_duration_since(Instant::now());
        if before >= MAX_ASKED || left.is_zero() {
            return None;
        }
        let (answer, answered) = sync_channel(1);
        self.send(Question {
            name: name.to_owned(),
            until,
            answer,
            _place: place,
        });
        answered.recv_timeout(left).ok()
    }

    /// Keeps answers for who asks next.
    pub(super) fn keep(&self, answers: HashMap<String, Uid>) {
        let now = Instant::now();
        let mut kept = lock(&self.shared.kept);
        kept.retain(|_, (came, _)| came.elapsed() < FRESH);
        let room = MAX_KEPT.saturating_sub(kept.len());
        let answers = answers.into_iter().take(room);
        kept.extend(answers.map(|(name, said)| (name, (now, said))));
    }

    fn send(&self, question: Question) {
        let mut questions = lock(&self.questions);
        let unsent = match &*questions {
            Some(there) => there.send(question).err().map(|unsent| unsent.0),
            None => Some(question),
        };
        let Some(question) = unsent else { return };
        let (sender, asked) = channel();
        let shared = Arc::clone(&self.shared);
        let thread = std::thread::Builder::new().name("names".to_owned());
        // Without a thread there is no answer.
        if thread.spawn(move || answer_all(&shared, &asked)).is_ok()
            && sender.send(question).is_ok()
        {
            *questions = Some(sender);
        }
    }
}

/// Until nobody can ask any more.
fn answer_all(shared: &Shared, asked: &Receiver<Question>) {
    while let Ok(question) = asked.recv() {
        // Nobody waits for it, and there is more to ask.
        if Instant::now() >= question.until {
            continue;
        }
        let said = (shared.look_up)(&question.name);
        if Instant::now() < question.until && question.answer.send(said.clone()).is_ok() {
            continue;
        }
        let mut kept = lock(&shared.kept);
        if kept.len() < MAX_KEPT {
            kept.insert(question.name, (Instant::now(), said));
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
