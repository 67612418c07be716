//! The URL under which people reach the page.

use crate::config::{HostName, Web};

/// `web.external_url` where it is set, else the first address that the agent listens on. An address
/// that stands for all (`0.0.0.0`, `[::]`) leads nowhere from elsewhere: there it is the host's name.
/// `scheme` is that of the listeners. Without a slash at the end.
#[must_use]
pub fn base_url(web: &Web, host_name: &str, scheme: &str) -> String {
    if let Some(url) = web.external_url.url() {
        return url.trim_end_matches('/').to_owned();
    }
    match web.listen_addresses.first() {
        Some(address) if !address.ip().is_unspecified() => format!("{scheme}://{address}"),
        Some(address) => match HostName::parse(host_name) {
            Some(host) => format!("{scheme}://{host}:{}", address.port()),
            None => format!("{scheme}://{address}"),
        },
        // A configuration has one at least; `tcpwatch top` listens nowhere.
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Config;

    fn of(web: &str) -> String {
        let config = Config::parse(&format!("[web]\n{web}\n"), Path::new("test.toml"))
            .expect("a configuration");
        base_url(&config.web, "Web-7.example.net", "http")
    }

    #[test]
    fn people_reach_the_page_by_the_url_that_is_set_else_by_the_first_address() {
        for (web, expected) in [
            ("", "http://127.0.0.1:10743"),
            ("listen_addresses = [\"[2001:db8::7]:80\"]", "http://[2001:db8::7]:80"),
            ("listen_addresses = [\"0.0.0.0:10743\"]", "http://web-7.example.net:10743"),
            ("listen_addresses = [\"[::]:99\"]", "http://web-7.example.net:99"),
            (
                "external_url = \"https://watch.example.org/web-7/\"",
                "https://watch.example.org/web-7",
            ),
        ] {
            assert_eq!(of(web), expected, "{web}");
        }
        let web = Config::default().web;
        assert_eq!(base_url(&web, "web-7", "https"), "https://127.0.0.1:10743");
    }
}
