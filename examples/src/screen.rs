//! Touches the terminal: takes it over and gives it back, and says which key was pressed.

use std::io::{self, Stdout, stdout};
use std::panic;
use std::sync::atomic::{AtomicBool, Ordering};

use crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use crossterm::{cursor, execute};
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;

/// Whether the terminal is ours now.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// What a person presses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// The row above.
    Up,
    /// The row below.
    Down,
    /// Yes.
    Enter,
    /// No.
    Escape,
    /// Control and C, which ends it whatever is shown.
    Interrupt,
    /// A letter.
    Char(char),
}

/// The terminal, taken over; as before when dropped, also by a panic.
#[derive(Debug)]
pub struct Screen {
    /// What is drawn on.
    pub terminal: Terminal<CrosstermBackend<Stdout>>,
}

impl Screen {
    /// Takes it over.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn take() -> io::Result<Self> {
        let former = panic::take_hook();
        // What a panic says must not be lost with the second screen.
        panic::set_hook(Box::new(move |info| {
            give_back();
            former(info);
        }));
        TAKEN.store(true, Ordering::Relaxed);
        enable_raw_mode()?;
        let taken = execute!(stdout(), EnterAlternateScreen, cursor::Hide);
        let terminal = taken.and_then(|()| Terminal::new(CrosstermBackend::new(stdout())));
        match terminal {
            Ok(terminal) => Ok(Self { terminal }),
            Err(error) => {
                give_back();
                Err(error)
            }
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
    }
}

fn give_back() {
    // A second time would put the cursor over what a panic said.
    if !TAKEN.swap(false, Ordering::Relaxed) {
        return;
    }
    // What cannot be given back is gone.
    let _ = execute!(stdout(), LeaveAlternateScreen, cursor::Show);
    let _ = disable_raw_mode();
}

/// Which key, if it is one that means something.
pub fn key_of(event: KeyEvent) -> Option<Key> {
    if event.kind == KeyEventKind::Release {
        return None;
    }
    let control = event.modifiers.contains(KeyModifiers::CONTROL);
    match event.code {
        KeyCode::Char('c') if control => Some(Key::Interrupt),
        KeyCode::Char(_) if control => None,
        KeyCode::Char(c) => Some(Key::Char(c)),
        KeyCode::Up => Some(Key::Up),
        KeyCode::Down => Some(Key::Down),
        KeyCode::Enter => Some(Key::Enter),
        KeyCode::Esc => Some(Key::Escape),
        _ => None,
    }
}
