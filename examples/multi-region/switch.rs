//! Sends an application through another tunnel: by a rule in the daemon's database, as `rule add`
//! writes it.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use vpn_core::{Action, OnChange, OnDown, OwnerMatch, RuleId, RuleMatch};
use vpn_routing::source::SqliteRules;

use crate::error::{Error, chain, system};
use crate::policy::Known;
use crate::report::Reporter;
use crate::rule::as_word;

/// Whose traffic, and where to.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Switch {
    pub(crate) app: App,
    /// A tunnel, a group, `direct` or `block`.
    pub(crate) to: String,
}

/// What is known of an application. The rule names the most telling of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct App {
    pub(crate) uid: Option<u32>,
    pub(crate) executable: Option<PathBuf>,
    pub(crate) package: Option<String>,
}

impl App {
    fn matches(&self) -> Option<RuleMatch> {
        let owner = match (&self.package, &self.executable, self.uid) {
            (Some(package), ..) => OwnerMatch::Package(package.clone()),
            (_, Some(path), _) => OwnerMatch::Executable(path.clone()),
            (.., Some(uid)) => OwnerMatch::Uid(uid),
            _ => return None,
        };
        Some(RuleMatch {
            owner: Some(owner),
            ..RuleMatch::default()
        })
    }
}

impl Reporter {
    /// For the control socket: which rule says so now.
    pub(crate) async fn switch(&self, switch: &Switch) -> Value {
        let Some(database) = self.database.clone() else {
            return json!({
                "error": "the configuration names no database of rules: set the key rules, \
                          or change its tables of rules",
            });
        };
        let (switch, known) = (switch.clone(), self.policy.get());
        // SQLite blocks.
        let task = tokio::task::spawn_blocking(move || write(&database, &switch, &known));
        let done = task
            .await
            .unwrap_or_else(|panic| Err(system("writing the rule")(panic)));
        match done {
            Ok((id, says)) => json!({ "rule": id.to_string(), "says": says }),
            Err(error) => json!({ "error": chain(&error) }),
        }
    }
}

/// Adds the rule, or changes the one with the same match; that one keeps what else it says.
fn write(database: &Path, switch: &Switch, known: &Known) -> Result<(RuleId, String), Error> {
    let argument = |problem: String| Error::Argument(problem);
    let to: Action = switch
        .to
        .parse()
        .map_err(|error| argument(format!("{}: {error}", switch.to)))?;
    // As a rule it would block.
    if !known.has(&switch.to) {
        let problem = format!(
            "there is no tunnel or group {}, nor any other way",
            switch.to
        );
        return Err(argument(problem));
    }
    let Some(matches) = switch.app.matches() else {
        return Err(argument("nobody is known to own these flows".to_owned()));
    };
    let rules = SqliteRules::open(database)?;
    let there = rules.list()?;
    let (on_change, on_down) = there
        .iter()
        .find(|rule| rule.matches == matches)
        .map_or((OnChange::default(), OnDown::default()), |rule| {
            (rule.on_change, rule.on_down.clone())
        });
    // What blocks is never down, and nothing falls back to itself.
    let on_down = match to == Action::Block || to.to_string() == as_word(&on_down) {
        true => OnDown::Block,
        false => on_down,
    };
    let id = rules.add_rule(&matches, &to, on_change, &on_down)?;
    Ok((id, format!("{matches} -> {to}")))
}
