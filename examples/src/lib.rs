//! Shared pieces of the examples: what more than one of them needs, and none is about.

pub mod control;
pub mod draw;
pub mod error;
pub mod etcd;
pub mod file;
pub mod interface;
pub mod mesh;
pub mod metrics;
pub mod program;
pub mod screen;
pub mod signals;
pub mod words;

/// An error with its causes, on one line.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

/// To standard output. A reader that has seen enough, or has gone away, is no error.
pub fn print(text: &str) {
    use std::io::Write as _;
    let mut out = std::io::stdout();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
