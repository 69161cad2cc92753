//! The apps as processes: copies of this program, each under a name of its own.

use std::fs;
use std::io::{self, BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::{self, JoinHandle};

use tempfile::TempDir;
use tokio::sync::mpsc;

use crate::circuit::APPS;
use crate::error::{Doing, StepError};
use crate::report::Report;
use crate::stage::Told;

/// A folder with the apps' executables, removed on drop.
#[derive(Debug)]
pub(crate) struct Executables {
    paths: Vec<PathBuf>,
    _folder: TempDir,
}

impl Executables {
    /// Makes them. An executable is told apart by its path, so links to one file will do.
    pub(crate) fn make() -> Result<Self, StepError> {
        let own = std::env::current_exe().doing("find this program")?;
        let folder = TempDir::with_prefix("quickstart-").doing("make a temporary folder")?;
        // What /proc/PID/exe will say.
        let place = folder
            .path()
            .canonicalize()
            .doing("find the temporary folder")?;
        let link = |name: &&str| {
            let path = place.join(name);
            link_or_copy(&own, &path).doing("copy this program")?;
            Ok(path)
        };
        let paths = APPS.iter().map(link).collect::<Result<_, StepError>>()?;
        Ok(Self {
            paths,
            _folder: folder,
        })
    }

    /// One per app.
    pub(crate) fn paths(&self) -> &[PathBuf] {
        &self.paths
    }
}

/// Another file system, or a file of another user, cannot be linked.
fn link_or_copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::hard_link(from, to).or_else(|_| fs::copy(from, to).map(drop))
}

/// The running apps. Dropping it ends them.
#[derive(Debug, Default)]
pub(crate) struct Fleet {
    apps: Vec<(Child, JoinHandle<()>)>,
}

impl Fleet {
    /// Starts all apps in the namespace of the calling thread.
    pub(crate) fn start(
        executables: &[PathBuf],
        sites: &[SocketAddr],
        told: &mpsc::Sender<(usize, Told)>,
    ) -> Result<Self, StepError> {
        let mut fleet = Self::default();
        for (number, executable) in executables.iter().enumerate() {
            let mut child = Command::new(executable)
                .arg("app")
                .args(sites.iter().map(ToString::to_string))
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                // Ctrl-C is for us: apps are ended in order.
                .process_group(0)
                .spawn()
                .doing("start an app")?;
            let out = child.stdout.take();
            let told = told.clone();
            let reader = thread::Builder::new()
                .name(format!("read-{}", APPS[number]))
                .spawn(move || {
                    let why = out.map_or_else(String::new, |out| read(number, out, &told));
                    // Nobody listens any more at the end of the show.
                    let _ = told.blocking_send((number, Told::Ended(why)));
                });
            match reader {
                Ok(reader) => fleet.apps.push((child, reader)),
                Err(error) => {
                    end(&mut child);
                    return Err(error).doing("start a thread");
                }
            }
        }
        Ok(fleet)
    }

    /// Ends all apps and waits for them. Close the receiver of their reports before, lest one that
    /// waits for room in it waits for ever.
    pub(crate) fn stop(&mut self) {
        for (child, _) in &mut self.apps {
            end(child);
        }
        for (_, reader) in self.apps.drain(..) {
            // Its pipe is closed, so it ends; a panic in it was printed.
            let _ = reader.join();
        }
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.stop();
    }
}

fn end(child: &mut Child) {
    // It may have ended by itself.
    let _ = child.kill();
    let _ = child.wait();
}

/// Passes reports on until the app ends; why it ended, as far as its output tells.
fn read(number: usize, out: impl io::Read, told: &mpsc::Sender<(usize, Told)>) -> String {
    for line in BufReader::new(out).lines() {
        let report = match line.map(|line| line.parse::<Report>()) {
            Ok(Ok(report)) => report,
            Ok(Err(wrong)) => return wrong.to_string(),
            Err(error) => return error.to_string(),
        };
        if told.blocking_send((number, Told::Report(report))).is_err() {
            return "nobody listens".to_owned();
        }
    }
    "its output is closed".to_owned()
}
