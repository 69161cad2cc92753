//! Names of the domain name system, and patterns over them.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;

/// Longest name in text form, without the final dot (RFC 1035 §2.3.4: 255 octets on the wire).
const MAX_NAME: usize = 253;

/// Longest label (RFC 1035 §2.3.4).
const MAX_LABEL: usize = 63;

/// Why a text is no domain name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no domain name: {problem}")]
pub struct DomainError {
    /// The text.
    pub text: String,
    /// What is wrong with it.
    pub problem: &'static str,
}

/// A domain name in the form in which names compare equal: lower case, no final dot
/// (RFC 4343). International names are in their A-label form (`xn--…`, RFC 5890).
///
/// ```
/// use vpn_core::domain::DomainName;
/// let name: DomainName = "WWW.Example.COM.".parse()?;
/// assert_eq!(name.as_str(), "www.example.com");
/// assert_eq!(name.parents().collect::<Vec<_>>(), ["example.com", "com"]);
/// # Ok::<(), vpn_core::domain::DomainError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DomainName(Box<str>);

impl DomainName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The domains this name lies in, the nearest first; not the name itself, not the root.
    pub fn parents(&self) -> impl Iterator<Item = &str> {
        std::iter::successors(parent(&self.0), |name| parent(name))
    }

    /// Whether this name lies below `domain`.
    pub fn is_below(&self, domain: &Self) -> bool {
        self.0
            .strip_suffix(domain.as_str())
            .is_some_and(|rest| rest.ends_with('.'))
    }
}

fn parent(name: &str) -> Option<&str> {
    name.split_once('.').map(|(_, rest)| rest)
}

impl FromStr for DomainName {
    type Err = DomainError;

    fn from_str(text: &str) -> Result<Self, DomainError> {
        let wrong = |problem| {
            let text = text.to_owned();
            Err(DomainError { text, problem })
        };
        let name = text.strip_suffix('.').unwrap_or(text);
        if name.is_empty() {
            return wrong("it is empty");
        }
        if name.len() > MAX_NAME {
            return wrong("it is longer than 253 characters");
        }
        for label in name.split('.') {
            if label.is_empty() {
                return wrong("a label is empty");
            }
            if label.len() > MAX_LABEL {
                return wrong("a label is longer than 63 characters");
            }
            // Underscores are in use (RFC 8552), and a name that is asked for may have them.
            let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
            if !label.bytes().all(plain) {
                return wrong("only letters, digits, '-' and '_'; write it in its xn-- form");
            }
        }
        Ok(Self(name.to_ascii_lowercase().into()))
    }
}

impl fmt::Display for DomainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Borrow<str> for DomainName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// Which names below a domain a pattern means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DomainScope {
    /// Those below it, at any depth, and not itself: `*.example.com`.
    Below,
    /// Itself and those below it: `.example.com`.
    Whole,
    /// Itself only: `example.com`.
    Exact,
}

/// A pattern over domain names.
///
/// | Text | Matches |
/// |---|---|
/// | `example.com` | that name |
/// | `.example.com` | that name and all below it |
/// | `*.example.com` | all below it |
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DomainPattern {
    domain: DomainName,
    scope: DomainScope,
}

impl DomainPattern {
    /// The names of `scope` in `domain`.
    pub const fn new(domain: DomainName, scope: DomainScope) -> Self {
        Self { domain, scope }
    }

    /// The domain.
    pub const fn domain(&self) -> &DomainName {
        &self.domain
    }

    /// Which names in it.
    pub const fn scope(&self) -> DomainScope {
        self.scope
    }

    /// Whether `name` is meant.
    pub fn matches(&self, name: &DomainName) -> bool {
        match self.scope {
            DomainScope::Exact => *name == self.domain,
            DomainScope::Below => name.is_below(&self.domain),
            DomainScope::Whole => *name == self.domain || name.is_below(&self.domain),
        }
    }
}

impl FromStr for DomainPattern {
    type Err = DomainError;

    fn from_str(text: &str) -> Result<Self, DomainError> {
        let (domain, scope) = if let Some(rest) = text.strip_prefix("*.") {
            (rest, DomainScope::Below)
        } else if let Some(rest) = text.strip_prefix('.') {
            (rest, DomainScope::Whole)
        } else {
            (text, DomainScope::Exact)
        };
        let domain = domain.parse().map_err(|error: DomainError| DomainError {
            text: text.to_owned(),
            ..error
        })?;
        Ok(Self { domain, scope })
    }
}

impl fmt::Display for DomainPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prefix = match self.scope {
            DomainScope::Exact => "",
            DomainScope::Whole => ".",
            DomainScope::Below => "*.",
        };
        write!(f, "{prefix}{}", self.domain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> DomainName {
        text.parse().expect("a name")
    }

    fn pattern(text: &str) -> DomainPattern {
        text.parse().expect("a pattern")
    }

    #[test]
    fn a_pattern_means_a_name_or_what_is_below_it() {
        let names = [
            "example.com",
            "www.example.com",
            "a.b.example.com",
            "badexample.com",
            "com",
        ];
        let cases = [
            ("example.com", [true, false, false, false, false]),
            (".example.com", [true, true, true, false, false]),
            ("*.example.com", [false, true, true, false, false]),
        ];
        for (text, expected) in cases {
            let got = names.map(|n| pattern(text).matches(&name(n)));
            assert_eq!(got, expected, "{text}");
            assert_eq!(pattern(text).to_string(), text);
        }
    }

    #[test]
    fn names_compare_without_case_and_final_dot() {
        assert_eq!(name("Example.COM."), name("example.com"));
    }

    #[test]
    fn what_is_no_name_is_refused_and_said() {
        let long = "a".repeat(64);
        for bad in [
            "",
            ".",
            "..",
            "a..b",
            "exämple.com",
            "a b",
            "*.*.com",
            "*",
            long.as_str(),
        ] {
            let error = bad.parse::<DomainPattern>().expect_err(bad);
            assert_eq!(error.text, bad);
        }
        assert!(["a"; 127].join(".").parse::<DomainName>().is_ok());
        assert!(["a"; 128].join(".").parse::<DomainName>().is_err());
    }
}
