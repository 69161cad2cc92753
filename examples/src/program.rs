//! How a program begins and ends: its log, its runtime, its exit code.

use std::process::ExitCode;

use tokio::runtime::Builder;
use tracing_subscriber::EnvFilter;

/// An error that ends a program.
pub trait Fails: std::error::Error + Sized + 'static {
    /// 2 for what the user can correct in files and arguments, 1 for what went wrong at run time.
    fn exit_code(&self) -> u8;

    /// The runtime cannot be started.
    fn no_runtime(cause: std::io::Error) -> Self;
}

/// Logs to standard error: what `RUST_LOG` names, else this.
pub fn log(default: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // Colours are not compiled in, and asking for them is a panic.
        .with_ansi(false)
        // Nobody may be reading it any more, and saying so there would be a panic.
        .log_internal_errors(false)
        .init();
}

/// Does this on such a runtime; how it ended is the program's exit code, and an error a line on
/// standard error.
pub fn run<E: Fails>(
    name: &str,
    runtime: &mut Builder,
    work: impl Future<Output = Result<(), E>>,
) -> ExitCode {
    let runtime = runtime.enable_all().build().map_err(E::no_runtime);
    match runtime.and_then(|runtime| runtime.block_on(work)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody may be reading it, which is no reason to panic.
            use std::io::Write as _;
            let _ = writeln!(std::io::stderr(), "{name}: {}", crate::chain(&error));
            ExitCode::from(error.exit_code())
        }
    }
}
