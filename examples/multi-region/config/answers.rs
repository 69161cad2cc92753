//! `[answers]`: what apps are told when a packet of them goes nowhere.

use serde::{Deserialize, Serialize};
use vpn_routing::router::{Answer as RouterAnswer, Answers as RouterAnswers};

/// Nothing, or that they may give up at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Answer {
    Drop,
    Reject,
}

impl From<RouterAnswer> for Answer {
    fn from(answer: RouterAnswer) -> Self {
        match answer {
            RouterAnswer::Drop => Self::Drop,
            RouterAnswer::Reject => Self::Reject,
        }
    }
}

impl From<Answer> for RouterAnswer {
    fn from(answer: Answer) -> Self {
        match answer {
            Answer::Drop => Self::Drop,
            Answer::Reject => Self::Reject,
        }
    }
}

/// `[answers]`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Answers {
    blocked: Answer,
    unknown_owner: Answer,
    down: Answer,
    no_family: Answer,
    no_resolver: Answer,
    cold: Answer,
}

impl Default for Answers {
    fn default() -> Self {
        let router = RouterAnswers::default();
        Self {
            blocked: router.blocked.into(),
            unknown_owner: router.unknown_owner.into(),
            down: router.down.into(),
            no_family: router.no_family.into(),
            no_resolver: router.no_resolver.into(),
            cold: router.cold.into(),
        }
    }
}

impl Answers {
    pub(super) fn for_router(&self) -> RouterAnswers {
        RouterAnswers {
            blocked: self.blocked.into(),
            unknown_owner: self.unknown_owner.into(),
            down: self.down.into(),
            no_family: self.no_family.into(),
            no_resolver: self.no_resolver.into(),
            cold: self.cold.into(),
        }
    }
}
