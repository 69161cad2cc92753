//! How the parts of rules are written, in files, databases and on command lines alike.
//!
//! | Part | Written as |
//! |---|---|
//! | [`Action`] | `direct`, `block`, or the name of a tunnel or group |
//! | [`OnChange`] | `keep`, `reset` or `drop` |
//! | [`OnDown`] | `block`, `direct`, or the name of a tunnel or group |
//! | [`PortRange`] | `443` or `8000-8999` |
//! | [`RuleProtocol`] | `tcp`, `udp` or `icmp` |
//! | [`Family`] | `ipv4` or `ipv6` |
//! | a prefix, by [`parse_prefix`] | `192.0.2.0/24`, or an address, which is itself alone |
//! | a cgroup, by [`parse_cgroup`] | `/system.slice/nginx.service` |

use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use ipnet::IpNet;

use super::{
    Action, FilterAction, FilterDirection, IcmpMatch, OnChange, OnDown, PortRange, RuleProtocol,
};
use crate::flow::Family;

/// Why a text is no such part of a rule. Write it as the message says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is {problem}")]
pub struct RuleTextError {
    /// The text.
    pub text: String,
    /// What it is not, and what would be right.
    pub problem: String,
}

impl RuleTextError {
    fn new(text: &str, problem: impl Into<String>) -> Self {
        Self {
            text: text.to_owned(),
            problem: problem.into(),
        }
    }
}

impl FromStr for Action {
    type Err = RuleTextError;

    /// A name is one of a tunnel or of a group; which is known when rules are compiled, and a
    /// tunnel comes first.
    fn from_str(text: &str) -> Result<Self, RuleTextError> {
        match text {
            "direct" => Ok(Self::Direct),
            "block" => Ok(Self::Block),
            name => Ok(Self::Tunnel(name_of(name)?)),
        }
    }
}

impl FromStr for OnDown {
    type Err = RuleTextError;

    fn from_str(text: &str) -> Result<Self, RuleTextError> {
        match text {
            "direct" => Ok(Self::Direct),
            "block" => Ok(Self::Block),
            name => Ok(Self::Fallback(name_of(name)?)),
        }
    }
}

fn name_of(text: &str) -> Result<String, RuleTextError> {
    if text.is_empty() || text.chars().any(char::is_control) {
        let problem = "no name of a tunnel or group, not \"direct\" and not \"block\"";
        return Err(RuleTextError::new(text, problem));
    }
    Ok(text.to_owned())
}

impl FromStr for OnChange {
    type Err = RuleTextError;

    fn from_str(text: &str) -> Result<Self, RuleTextError> {
        match text {
            "keep" => Ok(Self::Keep),
            "reset" => Ok(Self::Reset),
            "drop" => Ok(Self::Drop),
            _ => Err(RuleTextError::new(text, "none of keep, reset, drop")),
        }
    }
}

impl FromStr for PortRange {
    type Err = RuleTextError;

    fn from_str(text: &str) -> Result<Self, RuleTextError> {
        let number = |part: &str| {
            part.parse::<u16>()
                .map_err(|_| RuleTextError::new(text, "no port and no range such as 8000-8999"))
        };
        let (first, last) = match text.split_once('-') {
            Some((first, last)) => (number(first)?, number(last)?),
            None => (number(text)?, number(text)?),
        };
        Self::new(first, last).ok_or_else(|| {
            RuleTextError::new(text, format!("no range: {first} is larger than {last}"))
        })
    }
}

impl FromStr for RuleProtocol {
    type Err = RuleTextError;

    fn from_str(text: &str) -> Result<Self, RuleTextError> {
        match text {
            "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            "icmp" => Ok(Self::Icmp),
            _ => Err(RuleTextError::new(text, "none of tcp, udp, icmp")),
        }
    }
}

impl FromStr for Family {
    type Err = RuleTextError;

    fn from_str(text: &str) -> Result<Self, RuleTextError> {
        match text {
            "ipv4" => Ok(Self::V4),
            "ipv6" => Ok(Self::V6),
            _ => Err(RuleTextError::new(text, "none of ipv4, ipv6")),
        }
    }
}

impl FromStr for FilterDirection {
    type Err = RuleTextError;

    fn from_str(text: &str) -> Result<Self, RuleTextError> {
        match text {
            "in" => Ok(Self::Inbound),
            "out" => Ok(Self::Outbound),
            "both" => Ok(Self::Both),
            _ => Err(RuleTextError::new(text, "none of in, out, both")),
        }
    }
}

impl FromStr for FilterAction {
    type Err = RuleTextError;

    fn from_str(text: &str) -> Result<Self, RuleTextError> {
        match text {
            "accept" => Ok(Self::Accept),
            "drop" => Ok(Self::Drop),
            "reject" => Ok(Self::Reject),
            _ => Err(RuleTextError::new(text, "none of accept, drop, reject")),
        }
    }
}

impl FromStr for IcmpMatch {
    type Err = RuleTextError;

    /// A type, or type and code: `3` or `3/4`.
    fn from_str(text: &str) -> Result<Self, RuleTextError> {
        let number = |part: &str| {
            part.parse::<u8>().map_err(|_| {
                RuleTextError::new(text, "no ICMP type (0 to 255) and no type/code such as 3/4")
            })
        };
        Ok(match text.split_once('/') {
            Some((kind, code)) => Self {
                kind: number(kind)?,
                code: Some(number(code)?),
            },
            None => Self {
                kind: number(text)?,
                code: None,
            },
        })
    }
}

/// A prefix, host bits cleared; an address is the prefix of itself alone.
///
/// # Errors
///
/// The text is neither, or is an IPv4-mapped IPv6 prefix (RFC 4291, section 2.5.5.2).
///
/// ```
/// use vpn_core::rule::parse_prefix;
/// assert_eq!(parse_prefix("10.1.2.3/8")?.to_string(), "10.0.0.0/8");
/// assert_eq!(parse_prefix("2001:db8::1")?.to_string(), "2001:db8::1/128");
/// # Ok::<(), vpn_core::rule::RuleTextError>(())
/// ```
pub fn parse_prefix(text: &str) -> Result<IpNet, RuleTextError> {
    let net = text
        .parse::<IpNet>()
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
        .map(|net| net.trunc())
        .map_err(|_| RuleTextError::new(text, "no address and no prefix such as 192.0.2.0/24"))?;
    // Sockets know such addresses, packets do not: a rule for them would match nothing.
    match net {
        IpNet::V6(v6) if v6.prefix_len() >= 96 && v6.addr().to_ipv4_mapped().is_some() => {
            let problem = "an IPv4 address in IPv6 form, which no packet has; write it as IPv4";
            Err(RuleTextError::new(text, problem))
        }
        net => Ok(net),
    }
}

/// A cgroup's path in the hierarchy, without a final slash.
///
/// # Errors
///
/// The text is no such path, or is one in the file system, which the kernel does not report.
pub fn parse_cgroup(text: &str) -> Result<PathBuf, RuleTextError> {
    let expected = "no path in the cgroup hierarchy such as /system.slice/nginx.service";
    let plain = |part: &str| !matches!(part, "" | "." | "..") && !part.contains('\0');
    let inner = text.strip_suffix('/').unwrap_or(text);
    let well_formed = text == "/" || inner.split('/').skip(1).all(plain);
    if !text.starts_with('/') || !well_formed {
        return Err(RuleTextError::new(text, expected));
    }
    if text.starts_with("/sys/fs/cgroup") {
        let problem = format!("{expected}: leave out /sys/fs/cgroup");
        return Err(RuleTextError::new(text, problem));
    }
    Ok(PathBuf::from(if text == "/" { text } else { inner }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `Display` and `FromStr` are inverse where both are one notation.
    fn both_ways<T>(good: &[&str], bad: &[&str])
    where
        T: FromStr<Err = RuleTextError> + std::fmt::Display,
    {
        for text in good {
            let value: T = text.parse().unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(value.to_string(), *text);
        }
        for text in bad {
            match text.parse::<T>() {
                Ok(value) => panic!("{text} is {value}"),
                Err(error) => assert_eq!(error.text, *text),
            }
        }
    }

    #[test]
    fn what_is_printed_can_be_read() {
        both_ways::<Action>(&["uk", "direct", "block"], &["", "a\nb"]);
        both_ways::<OnChange>(&["keep", "reset", "drop"], &["", "Keep"]);
        both_ways::<PortRange>(
            &["0", "443", "1-65535"],
            &["", "-", "9-1", "65536", "1-2-3"],
        );
        both_ways::<RuleProtocol>(&["tcp", "udp", "icmp"], &["sctp", "TCP"]);
        both_ways::<Family>(&["ipv4", "ipv6"], &["4", ""]);
    }

    #[test]
    fn a_range_says_which_end_is_wrong() {
        let error = "9-1".parse::<PortRange>().expect_err("no range");
        assert_eq!(error.to_string(), "\"9-1\" is no range: 9 is larger than 1");
    }

    #[test]
    fn what_to_do_while_down() {
        let read = |text: &str| text.parse::<OnDown>();
        assert_eq!(read("block"), Ok(OnDown::Block));
        assert_eq!(read("direct"), Ok(OnDown::Direct));
        assert_eq!(read("fr"), Ok(OnDown::Fallback("fr".into())));
        assert!(read("").is_err());
    }

    #[test]
    fn icmp_types() {
        let read = |text: &str| text.parse::<IcmpMatch>();
        let (kind, code) = (3, None);
        assert_eq!(read("3"), Ok(IcmpMatch { kind, code }));
        let code = Some(4);
        assert_eq!(read("3/4"), Ok(IcmpMatch { kind, code }));
        for bad in ["", "256", "3/", "/4", "3/4/5", "-1"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    /// They were taken, and matched nothing: what they should have blocked took the default.
    #[test]
    fn mapped_prefixes_are_refused() {
        for bad in ["::ffff:192.0.2.1", "::ffff:192.0.2.0/120", "::ffff:0:0/96"] {
            let error = parse_prefix(bad).expect_err("mapped");
            assert!(error.to_string().ends_with("write it as IPv4"), "{error}");
        }
        for good in ["::/0", "::ffff:0:0/95", "::1/128", "64:ff9b::/96"] {
            assert!(parse_prefix(good).is_ok(), "{good}");
        }
    }

    #[test]
    fn cgroups_are_paths_of_the_hierarchy() {
        assert_eq!(parse_cgroup("/a.slice/"), Ok("/a.slice".into()));
        assert_eq!(parse_cgroup("/"), Ok("/".into()));
        for bad in ["", "a.slice", "//", "/a//b", "/a/../b", "/sys/fs/cgroup/a"] {
            assert!(parse_cgroup(bad).is_err(), "{bad}");
        }
    }
}
