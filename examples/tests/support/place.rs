//! Where the daemon is given bad input, and what has to come of it.

use std::process::Command;

use vpn_lab::{Namespace, Output};

use super::{LIMIT, Site, network_of};

/// A good configuration.
pub const CONFIG: &str = "\
rules = \"rules.db\"

[dns]
apply = \"none\"

[tunnel.uk]
wireguard = \"uk.conf\"
";

/// Not a key anybody uses.
pub const KEY: &str = "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=";

/// A provider's file with this private key.
pub fn profile(private: &str) -> String {
    format!(
        "[Interface]\nPrivateKey = {private}\nAddress = 10.5.0.2/32\n\n\
         [Peer]\nPublicKey = {KEY}\nAllowedIPs = 0.0.0.0/0\nEndpoint = 192.0.2.1:51820\n"
    )
}

/// A site with a good configuration.
pub fn site() -> Site {
    let site = Site::new();
    site.write("multi-region.toml", CONFIG);
    site.write("uk.conf", &profile(KEY));
    site
}

/// A machine of its own where that is possible, so that a daemon that starts by mistake captures
/// nothing of the real one.
#[derive(Debug)]
pub struct Place(pub Option<Namespace>);

impl Place {
    pub fn new() -> Self {
        let own = vpn_lab::missing(&[]).is_none();
        Self(own.then(|| Namespace::new("bad-input").expect("a namespace")))
    }

    pub fn output(&self, mut command: Command) -> Output {
        match &self.0 {
            Some(namespace) => namespace.output(command, LIMIT).expect("the program"),
            None => {
                let output = command.output().expect("the program");
                Output {
                    status: output.status,
                    stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
                    stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
                }
            }
        }
    }

    pub fn network(&self) -> String {
        self.0
            .as_ref()
            .map_or(String::new(), |own| network_of(own).expect("ip"))
    }

    /// One line, and all of `parts` in it.
    pub fn says(output: &Output, parts: &[&str]) {
        assert_eq!(output.stderr.lines().count(), 1, "{}", output.stderr);
        assert!(
            output.stderr.starts_with("multi-region: "),
            "{}",
            output.stderr
        );
        for part in parts {
            assert!(
                output.stderr.contains(part),
                "{part:?} is not in: {}",
                output.stderr
            );
        }
    }

    /// `check` exits with 2 and says `parts`.
    pub fn check_fails(&self, site: &Site, parts: &[&str]) -> Output {
        let output = self.output(site.command(&["check", "--config", "multi-region.toml"]));
        assert_eq!(
            output.status.code(),
            Some(2),
            "check: {} {}",
            output.stdout,
            output.stderr
        );
        Self::says(&output, parts);
        output
    }

    /// `run` fails, says `parts` and leaves everything as it was.
    pub fn run_fails(&self, site: &Site, command: Command, parts: &[&str]) {
        let (network, before) = (self.network(), site.listing());
        let output = self.output(command);
        assert!(
            matches!(output.status.code(), Some(1 | 2)),
            "run: {:?}",
            output.status
        );
        Self::says(&output, parts);
        assert!(!output.stdout.contains("ready"), "{}", output.stdout);
        assert_eq!(self.network(), network);
        let after: Vec<String> = site.listing();
        let made: Vec<&String> = after.iter().filter(|name| !before.contains(name)).collect();
        // Made if it is missing, as documented.
        assert!(
            made.iter().all(|name| *name == "rules.db"),
            "left behind: {made:?}"
        );
    }

    pub fn both_fail(&self, site: &Site, parts: &[&str]) {
        self.check_fails(site, parts);
        self.run_fails(
            site,
            site.command(&["run", "--config", "multi-region.toml"]),
            parts,
        );
    }
}
