//! Hosts as a client names them: entries of `[web]`, which a `Host` header is compared with.

use std::{fmt, net::IpAddr};

use serde::{Serialize, Serializer};
use toml::Value;

use super::value::Accepts;

/// Longest name in the DNS, in text (RFC 1035 section 2.3.4).
const NAME_BYTES: usize = 253;

/// Longest label of a name (the same section).
const LABEL_BYTES: usize = 63;

/// A host by name or address, in the one form in which two are compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostName {
    /// An IP address; one that is mapped into IPv6 is its IPv4 address.
    Address(IpAddr),
    /// A name, lower case, without a final dot.
    Name(String),
}

impl HostName {
    /// From a name or an address, which may be in brackets; without a port. `None` if it is
    /// neither.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if let Some(address) = text.strip_prefix('[') {
            // A zone (RFC 6874) means something only to the client.
            let address = address.strip_suffix(']')?.split('%').next()?;
            return Some(Self::Address(IpAddr::V6(address.parse().ok()?).to_canonical()));
        }
        // A final dot is the root of the DNS; browsers send it as it was typed.
        let text = text.strip_suffix('.').unwrap_or(text);
        if let Ok(address) = text.parse::<IpAddr>() {
            return Some(Self::Address(address.to_canonical()));
        }
        let is_of_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        let is_label =
            |label: &str| (1..=LABEL_BYTES).contains(&label.len()) && label.bytes().all(is_of_name);
        let is_name = text.len() <= NAME_BYTES && text.split('.').all(is_label);
        is_name.then(|| Self::Name(text.to_ascii_lowercase()))
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

impl Accepts<Self> for HostName {
    fn expected() -> String {
        "the name or address of a host without port, such as \"tcpwatch.example.org\"".to_owned()
    }

    fn read(value: &Value) -> Option<Self> {
        value.as_str().and_then(Self::parse)
    }
}

impl Serialize for HostName {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

/// The URL under which people reach the page, or none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExternalUrl {
    url: String,
    host: Option<HostName>,
}

impl ExternalUrl {
    /// Its host; `None` where no URL is set.
    #[must_use]
    pub const fn host(&self) -> Option<&HostName> {
        self.host.as_ref()
    }

    /// The URL as it is set; `None` where none is.
    #[must_use]
    pub fn url(&self) -> Option<&str> {
        Some(&*self.url).filter(|url| !url.is_empty())
    }

    /// `http://` or `https://`, a host, maybe a port and a path; empty for none.
    fn parse(text: &str) -> Option<Self> {
        if text.is_empty() {
            return Some(Self::default());
        }
        let (scheme, after) = text.split_once("://")?;
        let is_web = ["http", "https"].iter().any(|it| scheme.eq_ignore_ascii_case(it));
        let is_plain = after.bytes().all(|byte| byte.is_ascii_graphic());
        if !is_web || !is_plain || after.contains(['?', '#', '@', '"', '\\', '<', '>']) {
            return None;
        }
        let authority = after.split('/').next()?;
        let host = host_of_authority(authority)?;
        Some(Self { url: text.to_owned(), host: Some(host) })
    }
}

/// The host of `host`, `host:port`, `[address]:port`, as a `Host` header and a URL have it.
#[must_use]
pub fn host_of_authority(authority: &str) -> Option<HostName> {
    let bracket = authority.find(']').map_or(0, |at| at + 1);
    let (in_brackets, after) = authority.split_at(bracket);
    let (host, port) = after.split_once(':').unwrap_or((after, ""));
    // RFC 3986 allows an empty port.
    if !port.is_empty() && port.parse::<u16>().is_err() {
        return None;
    }
    match (in_brackets, host) {
        ("", host) => HostName::parse(host),
        (address, "") => HostName::parse(address),
        _ => None,
    }
}

/// URLs of web pages, and "" for none.
pub(super) struct Url;

impl Accepts<ExternalUrl> for Url {
    fn expected() -> String {
        "a URL such as \"https://tcpwatch.example.org/\", or \"\" for none".to_owned()
    }

    fn read(value: &Value) -> Option<ExternalUrl> {
        value.as_str().and_then(ExternalUrl::parse)
    }
}

impl Serialize for ExternalUrl {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.url.serialize(to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Option<String> {
        HostName::parse(text).map(|host| host.to_string())
    }

    #[test]
    fn hosts_are_compared_in_one_form() {
        for (text, expected) in [
            ("Example.ORG", "example.org"),
            ("example.org.", "example.org"),
            ("127.0.0.1.", "127.0.0.1"),
            ("[::1]", "::1"),
            ("::1", "::1"),
            ("[::ffff:127.0.0.1]", "127.0.0.1"),
            ("[fe80::1%25eth0]", "fe80::1"),
            ("db_1", "db_1"),
        ] {
            assert_eq!(parsed(text).as_deref(), Some(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_host_is_none() {
        let long = "a".repeat(64);
        for text in ["", ".", "a..b", "a b", "a:80", "[::1", "::1]", "[a]", "http://a", "ü", &long]
        {
            assert_eq!(parsed(text), None, "{text}");
        }
    }

    #[test]
    fn port_of_an_authority_is_a_number_and_does_not_count() {
        let host = |text| host_of_authority(text).map(|host| host.to_string());
        assert_eq!(host("a:80").as_deref(), Some("a"));
        assert_eq!(host("a:").as_deref(), Some("a"));
        assert_eq!(host("[::1]:10743").as_deref(), Some("::1"));
        for text in ["", ":80", "::1", "a:b", "a:99999", "[::1]a", "a[::1]", "[::1]:1:2", "a:80@b"]
        {
            assert_eq!(host(text), None, "{text}");
        }
    }

    #[test]
    fn external_url_names_a_host() {
        let host = |text| ExternalUrl::parse(text).map(|url| url.host().map(HostName::to_string));
        assert_eq!(host(""), Some(None));
        assert_eq!(host("https://A.example:8443/tcpwatch/"), Some(Some("a.example".to_owned())));
        assert_eq!(host("http://[::1]:80"), Some(Some("::1".to_owned())));
        for text in ["a.example", "ftp://a", "http://", "http://a b", "http://u@a", "http://a?q"] {
            assert_eq!(host(text), None, "{text}");
        }
    }
}
