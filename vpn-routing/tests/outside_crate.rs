//! Somebody else's crate, outside the workspace, with nothing but the public API: it implements
//! the traits and runs an engine. Its source is in `outside_crate/`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A folder that goes with the test.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn manifest(crates: &Path) -> String {
    format!(
        r#"
[package]
name = "outside"
version = "0.0.0"
edition = "2024"
publish = false

[dependencies]
async-trait = "0.1"
tokio = {{ version = "1", features = ["macros", "rt", "sync", "time"] }}
vpn-core = {{ path = {core:?} }}
vpn-routing = {{ path = {routing:?}, features = ["tokio"] }}

[workspace]
"#,
        core = crates.join("vpn-core"),
        routing = crates.join("vpn-routing"),
    )
}

#[test]
fn a_crate_outside_the_workspace_runs_an_engine_on_its_own_parts() {
    let this = Path::new(env!("CARGO_MANIFEST_DIR"));
    let crates = this.parent().unwrap();
    let lock = crates.join("Cargo.lock");
    if !lock.exists() || !crates.join("vpn-core").exists() {
        println!("skipped: the crate was taken out of its workspace");
        return;
    }
    let name = format!("vpn-outside-{}", std::process::id());
    let folder = Folder(std::env::temp_dir().join(name));
    fs::create_dir_all(folder.0.join("src")).unwrap();
    fs::write(folder.0.join("Cargo.toml"), manifest(crates)).unwrap();
    // The same versions, so that nothing has to be fetched.
    fs::copy(lock, folder.0.join("Cargo.lock")).unwrap();
    let main = this.join("tests/outside_crate/src/main.rs");
    fs::copy(main, folder.0.join("src/main.rs")).unwrap();
    let output = Command::new(env!("CARGO"))
        .args(["run", "--offline", "--quiet"])
        .current_dir(&folder.0)
        // Kept between runs: the second is a matter of seconds.
        .env(
            "CARGO_TARGET_DIR",
            Path::new(env!("CARGO_TARGET_TMPDIR")).join("outside-crate"),
        )
        .output()
        .unwrap();
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{out}\n{err}");
    assert!(out.contains("100 packets there and back"), "{out}\n{err}");
}
