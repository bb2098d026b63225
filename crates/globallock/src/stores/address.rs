//! The addresses of stores: URLs whose scheme selects the backend. They may have several hosts, and never
//! show a password.

#[cfg(feature = "_transport")]
pub(crate) mod password;
mod remedies;
#[cfg(feature = "_transport")]
mod server;

use std::fmt;

use percent_encoding::percent_decode_str;

#[cfg(feature = "_transport")]
pub(crate) use self::server::TlsFiles;
use crate::error::{Error, Result};

/// The end of the name of every option that is a password.
const PASSWORD: &str = "password";

/// A parsed address.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    /// The part before the colon, in lower case.
    pub scheme: String,
    /// The user, if one is given.
    pub user: Option<String>,
    /// The password, if one is given.
    pub password: Option<String>,
    /// The hosts with their ports, in order.
    pub hosts: Vec<(String, Option<u16>)>,
    /// The path with its leading slash, decoded; empty if there is none.
    pub path: String,
    options: Vec<(String, String)>,
}

impl Address {
    /// Parses `scheme:[//[user[:password]@]host[:port][,host[:port]…]][/path][?option=value&…]`.
    ///
    /// # Errors
    /// [`Error::InvalidAddress`], which never contains the password.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong =
            |reason: &str| Error::InvalidAddress { address: redacted(text), reason: reason.to_owned() };
        let (scheme, rest) = text.split_once(':').ok_or_else(|| {
            wrong("it has no scheme; write for example redis://127.0.0.1:6379 or file:///var/lock/app")
        })?;
        let is_scheme = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
        if scheme.is_empty() || !scheme.chars().all(is_scheme) {
            return Err(wrong("its scheme has characters that a scheme cannot have"));
        }
        if rest.split(['?', '@']).next().is_some_and(|hosts| hosts.contains("://")) {
            return Err(wrong(
                "write the scheme once, before the first host, and then hosts only: scheme://h1,h2",
            ));
        }
        if text.contains(|c: char| c.is_control()) {
            return Err(wrong("it contains a control character"));
        }
        let decode = |part: &str| {
            let decoded =
                percent_decode_str(part).decode_utf8().map_err(|_| wrong("it is not UTF-8 when decoded"))?;
            if decoded.contains('\0') {
                Err(wrong("it contains a NUL character"))
            } else {
                Ok(decoded.into_owned())
            }
        };
        if rest.contains('#') {
            return Err(wrong("it contains a '#'; write %23 for one that belongs to a password or path"));
        }
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut options = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            // The error does not show this part, because it may be the rest of a password.
            let Some((key, value)) = pair.split_once('=').filter(|(key, _)| !key.contains('@')) else {
                return Err(wrong(
                    "what follows its '?' is not option=value&option=value; write %3F, %26 and %40 for '?', \
                     '&' and '@' in a password",
                ));
            };
            let key = decode(key)?;
            if options.iter().any(|(other, _)| *other == key) {
                return Err(wrong(&format!("the option {key:?} is given twice")));
            }
            options.push((key, decode(value)?));
        }
        let (authority, path) = match rest.strip_prefix("//") {
            None => ("", rest),
            Some(rest) => rest.split_at(rest.find('/').unwrap_or(rest.len())),
        };
        if !authority.is_empty() && path.contains('@') {
            return Err(wrong(
                "it contains an '@' after a '/'; write %2F and %40 for those that belong to a password",
            ));
        }
        let (userinfo, hosts) = match authority.rsplit_once('@') {
            Some((userinfo, hosts)) => (Some(userinfo), hosts),
            None => (None, authority),
        };
        let (user, password) = match userinfo.map(|info| info.split_once(':').unwrap_or((info, ""))) {
            None => (None, None),
            Some((user, password)) => (
                (!user.is_empty()).then(|| decode(user)).transpose()?,
                (!password.is_empty()).then(|| decode(password)).transpose()?,
            ),
        };
        let hosts = hosts
            .split(',')
            .filter(|host| !host.is_empty())
            .map(|host| host_and_port(host).ok_or_else(|| wrong("a port is not a number from 1 to 65535")))
            .collect::<Result<_>>()?;
        Ok(Address {
            scheme: scheme.to_ascii_lowercase(),
            user,
            password,
            hosts,
            path: decode(path)?,
            options,
        })
    }

    /// Takes the option `key` out of the address, so that [`Address::finish`] can refuse the unknown rest.
    pub fn take(&mut self, key: &str) -> Option<String> {
        let position = self.options.iter().position(|(other, _)| other == key)?;
        Some(self.options.remove(position).1)
    }

    /// Takes an option that is a duration, such as `250ms`, `2s` or `1m`.
    ///
    /// # Errors
    /// [`Error::InvalidAddress`] if its value is not a duration.
    pub fn take_duration(&mut self, key: &str) -> Result<Option<std::time::Duration>> {
        let Some(value) = self.take(key) else {
            return Ok(None);
        };
        crate::duration::parse(&value).map(Some).ok_or_else(|| {
            self.wrong(format!("the option {key} is {value:?}, not a time such as 250ms, 2s or 1h30m"))
        })
    }

    /// Whether the scheme is one with TLS.
    pub(crate) fn has_tls(&self) -> bool {
        let store = self.scheme.split('+').next().unwrap_or_default();
        matches!(store, "rediss" | "valkeys" | "etcds" | "zookeepers")
    }

    /// Refuses the options that were not taken.
    ///
    /// # Errors
    /// [`Error::InvalidAddress`], which names the first of them and all `known` options.
    pub fn finish(&self, known: &[&str]) -> Result<()> {
        match self.options.first() {
            None => Ok(()),
            Some((key, _)) => {
                let tls: &[&str] = if self.has_tls() { &["ca", "cert", "key"] } else { &[] };
                let known = [known, tls].concat().join(", ");
                let known = if known.is_empty() { "it has none".to_owned() } else { known };
                let remedy = remedies::of(key, &self.scheme).map(|remedy| format!(": {remedy}"));
                let (key, remedy) = (without_secret(key), remedy.unwrap_or_default());
                let scheme = &self.scheme;
                Err(self.wrong(format!("{scheme}: has no option {key:?}{remedy}; known are: {known}")))
            }
        }
    }

    /// An error about this address.
    pub fn wrong(&self, reason: impl Into<String>) -> Error {
        Error::InvalidAddress { address: self.to_string(), reason: reason.into() }
    }
}

/// Splits `host[:port]`. An IPv6 address is in brackets, which are removed.
fn host_and_port(text: &str) -> Option<(String, Option<u16>)> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']')?;
            (host, if rest.is_empty() { None } else { Some(rest.strip_prefix(':')?) })
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let port = port.map(str::parse::<u16>).transpose().ok()?;
    (port != Some(0) && !host.is_empty()).then(|| (host.to_owned(), port))
}

/// The text of an address, without all that may be a password: its options, and everything up to the last
/// `@`.
///
/// A password with an unescaped `/`, `?` or `#` must not show either, nor a password whose `@` was forgotten.
pub fn redacted(text: &str) -> String {
    let text = &text[..text.find(PASSWORD).unwrap_or(text.len())];
    let (scheme, rest) = text.split_once(':').map_or((None, text), |(scheme, rest)| (Some(scheme), rest));
    let scheme = scheme.map(|scheme| without_secret(scheme) + ":").unwrap_or_default();
    let shown = match rest.rsplit_once('@') {
        Some((_, rest)) => format!("{scheme}//…@{}", without_options(rest)),
        None => {
            let rest = without_options(rest);
            let start = rest.len() - rest.trim_start_matches('/').len();
            let path = rest[start..].find('/').map_or(rest.len(), |at| start + at);
            let (hosts, path) = rest.split_at(path);
            let hosts: Vec<String> = hosts.split(',').map(without_invalid_port).collect();
            scheme + &hosts.join(",") + path
        }
    };
    without_secret(&shown).escape_debug().to_string()
}

/// A host as written, but its port only if that is a number: after a forgotten `@` it may be a password.
fn without_invalid_port(host: &str) -> String {
    match host.split_once(':') {
        Some((name, port)) if !name.contains('[') && !port.bytes().all(|byte| byte.is_ascii_digit()) => {
            format!("{name}:…")
        }
        _ => host.to_owned(),
    }
}

/// A text without the parts that may be a password after a typo: everything before the last `@`, and
/// everything after the name of a password option.
pub(crate) fn without_secret(text: &str) -> String {
    let text = match text.rsplit_once('@') {
        Some((_, rest)) if !text.contains("…@") => format!("…@{rest}"),
        _ => text.to_owned(),
    };
    match text.find(PASSWORD) {
        Some(at) => format!("{}…", &text[..at + PASSWORD.len()]),
        None => text,
    }
}

/// A host and a port, as in an address.
#[cfg(feature = "_transport")]
pub(crate) fn authority(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// A text of somebody else's, without the characters that control a terminal.
#[cfg(feature = "_transport")]
pub(crate) fn printable(text: &str) -> String {
    let plain = |c: char| matches!(c, '\'' | '"' | '\\');
    text.trim_end().chars().fold(String::new(), |mut shown, c| {
        if plain(c) {
            shown.push(c);
        } else {
            shown.extend(c.escape_debug());
        }
        shown
    })
}

/// The part before the options, even if their question mark was forgotten.
fn without_options(text: &str) -> &str {
    text.split(['?', '#', '&', '=']).next().unwrap_or_default()
}

/// Writes the scheme, the user, the hosts and the path, but never the password or the options.
///
/// A user without a password is not written either, because it may be a password whose user was forgotten.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.scheme)?;
        if !self.hosts.is_empty() {
            f.write_str("//")?;
        }
        match (&self.user, &self.password) {
            (Some(user), Some(_)) => write!(f, "{}@", user.escape_debug())?,
            (Some(_), None) => f.write_str("…@")?,
            (None, _) => {}
        }
        for (index, (host, port)) in self.hosts.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            let (open, close) = if host.contains(':') { ("[", "]") } else { ("", "") };
            write!(f, "{comma}{open}{}{close}", host.escape_debug())?;
            if let Some(port) = port {
                write!(f, ":{port}")?;
            }
        }
        // Here the path is the path of a file or a name. In other schemes an `@` in the path means that the
        // user and the password are in the path, because of a slash too many.
        let is_file = matches!(self.scheme.as_str(), "file" | "memory");
        let path = if is_file { self.path.clone() } else { without_secret(&self.path) };
        write!(f, "{}", path.escape_debug())
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_address_is_split_into_its_parts() {
        let mut address =
            Address::parse("redis+sentinel://app:p%40ss@h1:26379,[::1]:2,h3/main/2?timeout=2s&prefix=a%3Ab")
                .unwrap();
        assert_eq!(address.scheme, "redis+sentinel");
        assert_eq!((address.user.as_deref(), address.password.as_deref()), (Some("app"), Some("p@ss")));
        let hosts = [("h1", Some(26379)), ("::1", Some(2)), ("h3", None)];
        assert_eq!(address.hosts, hosts.map(|(host, port)| (host.to_owned(), port)));
        assert_eq!(address.path, "/main/2");
        assert_eq!(address.take("prefix").as_deref(), Some("a:b"));
        assert_eq!(address.take_duration("timeout").unwrap(), Some(std::time::Duration::from_secs(2)));
        address.finish(&[]).unwrap();
        assert_eq!(address.to_string(), "redis+sentinel://app@h1:26379,[::1]:2,h3/main/2");
    }

    #[test]
    fn an_invalid_address_is_refused_with_the_reason() {
        for (text, reason) in [
            ("127.0.0.1", "no scheme"),
            ("redis://h:99999", "port"),
            ("redis://h:0", "port"),
            ("red is://h", "scheme"),
            ("redis://h?a=1&a=2", "twice"),
            ("redis://h/%ff", "UTF-8"),
            ("redis://:p#w@h", "%23"),
        ] {
            let error = Address::parse(text).unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
        let error = Address::parse("redis://h?x=1").unwrap().finish(&["prefix"]).unwrap_err().to_string();
        assert!(error.contains("no option \"x\"") && error.contains("prefix"), "{error}");
    }

    #[test]
    fn each_form_of_an_address_is_parsed_and_shown() {
        let host = |name: &str, port| (name.to_owned(), port);
        for (text, user, password, hosts, path, shown) in [
            ("FILE:/x/y", None, None, vec![], "/x/y", "file:/x/y"),
            ("memory:", None, None, vec![], "", "memory:"),
            ("memory:a@b", None, None, vec![], "a@b", "memory:a@b"),
            ("redis://u@h", Some("u"), None, vec![host("h", None)], "", "redis://…@h"),
            ("redis://u:@h", Some("u"), None, vec![host("h", None)], "", "redis://…@h"),
            ("redis://:p@h:7", None, Some("p"), vec![host("h", Some(7))], "", "redis://h:7"),
            ("redis://u:p@h/0", Some("u"), Some("p"), vec![host("h", None)], "/0", "redis://u@h/0"),
            ("a+b-c.d://[::1]", None, None, vec![host("::1", None)], "", "a+b-c.d://[::1]"),
            (
                "store://a:1,,b:65535",
                None,
                None,
                vec![host("a", Some(1)), host("b", Some(65535))],
                "",
                "store://a:1,b:65535",
            ),
            ("redis:///x@y", None, None, vec![], "/x@y", "redis:…@y"),
            ("file:///x%20y", None, None, vec![], "/x y", "file:/x y"),
        ] {
            let address = Address::parse(text).unwrap();
            assert_eq!((address.user.as_deref(), address.password.as_deref()), (user, password), "{text}");
            assert_eq!((&address.hosts, address.path.as_str()), (&hosts, path), "{text}");
            assert_eq!(address.to_string(), shown);
            assert_eq!(format!("{address:?}"), format!("Address({shown})"));
            let Error::InvalidAddress { address, reason } = address.wrong("why") else { panic!("{text}") };
            assert_eq!((address.as_str(), reason.as_str()), (shown, "why"));
        }
    }

    #[test]
    fn options_are_taken_once_and_the_rest_is_refused() {
        let mut address = Address::parse("redis://h?&b=2&a=1&").unwrap();
        assert_eq!(address.take("c"), None);
        assert_eq!(address.take_duration("c").unwrap(), None);
        assert_eq!(address.take("a").as_deref(), Some("1"));
        assert_eq!(address.take("a"), None);
        let error = address.finish(&[]).unwrap_err().to_string();
        assert!(error.contains("redis: has no option \"b\"; known are: it has none"), "{error}");
        assert_eq!(address.take_duration("b").unwrap(), Some(std::time::Duration::from_secs(2)));
        address.finish(&["a"]).unwrap();
        let error = Address::parse("redis://h?t=soon").unwrap().take_duration("t").unwrap_err().to_string();
        assert!(error.contains("the option t is \"soon\", not a time such as 250ms"), "{error}");
    }

    #[test]
    fn a_refusal_shows_the_address_without_what_may_be_a_password() {
        for (text, shown, reason) in [
            ("127.0.0.1", "127.0.0.1", "no scheme"),
            (":x", ":x", "its scheme has"),
            ("red/is://h", "red/is://h", "its scheme has"),
            ("redis://h:99999/0", "redis://h:99999/0", "a port is not"),
            ("redis://h:6379x/0?timeout=2s", "redis://h:…/0", "a port is not"),
            ("redis://a:1,b:x", "redis://a:1,b:…", "a port is not"),
            ("redis://app:s3cret@h:0/0", "redis://…@h:0/0", "a port is not"),
            ("redis://[::1]:0", "redis://[::1]:0", "a port is not"),
            ("redis://[::1", "redis://[::1", "a port is not"),
            ("redis://[::1]7", "redis://[::1]7", "a port is not"),
            ("redis://:7", "redis://:7", "a port is not"),
            ("redis://h:0?password=abc", "redis://h:0", "a port is not"),
            ("redis://h/\u{1b}", "redis://h/\\u{1b}", "control character"),
            ("redis://h/a#b", "redis://h/a", "a '#'"),
            ("redis://h/0?x", "redis://h/0", "option=value"),
            ("redis://h/0?x@y=1", "redis://…@y", "option=value"),
            ("redis://h/x@y", "redis://…@y", "an '@' after a '/'"),
            ("redis://h/%00", "redis://h/%00", "NUL"),
            ("redis://u%ff:p@h", "redis://…@h", "UTF-8"),
        ] {
            let Err(Error::InvalidAddress { address, reason: given }) = Address::parse(text) else {
                panic!("{text} is refused")
            };
            assert!(given.contains(reason), "{text}: {given}");
            assert_eq!(address, shown, "{text}");
        }
    }

    #[test]
    fn a_text_is_cut_where_a_password_may_be() {
        for (text, shown) in [
            ("plain", "plain"),
            ("u:p@host", "…@host"),
            ("…@host", "…@host"),
            ("a@…@host", "a@…@host"),
            ("masterpassword", "masterpassword…"),
            ("password=abc", "password…"),
        ] {
            assert_eq!(without_secret(text), shown);
        }
    }

    proptest! {
        #[test]
        fn the_password_is_never_shown(
            password in "[a-zA-Z0-9:/@?#%\\[\\] ]{6,20}",
            host in "[a-z0-9:,]{0,12}",
        ) {
            let secret = format!("QQ{password}QQ");
            let text = format!("redis://user:{secret}@{host}/0?prefix=x");
            let shown = match Address::parse(&text) {
                Ok(address) => format!("{address} {address:?} {}", address.wrong("x")),
                Err(error) => format!("{error} {error:?}"),
            };
            prop_assert!(!shown.contains("QQ"), "{shown}");
        }

        #[test]
        fn any_text_is_parsed_or_refused(text in any::<String>()) {
            if let Ok(address) = Address::parse(&text) {
                let shown = format!("{address} {address:?} {}", address.wrong("x"));
                prop_assert!(!shown.contains(char::is_control), "{shown}");
            }
        }

        #[test]
        fn a_refusal_has_no_control_characters(
            text in any::<String>(),
            scheme in "redis|file|[a-z\u{1b}\n]{0,4}",
        ) {
            if let Err(error) = Address::parse(&format!("{scheme}:{text}")) {
                let shown = error.to_string();
                prop_assert!(!shown.contains(|c: char| c.is_control() || c == '\u{202e}'), "{shown:?}");
            }
        }

        #[test]
        fn escaped_parts_are_read_back(
            user in "[^\0]{1,9}",
            password in "[^\0]{1,9}",
            value in "[^\0]{1,9}",
        ) {
            use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
            let [user_text, password_text, value_text] =
                [&user, &password, &value].map(|text| utf8_percent_encode(text, NON_ALPHANUMERIC));
            let text = format!("redis://{user_text}:{password_text}@[::1]:7/0?prefix={value_text}");
            let mut address = Address::parse(&text).unwrap();
            prop_assert_eq!((address.user.clone(), address.password.clone()), (Some(user), Some(password)));
            prop_assert_eq!(address.take("prefix"), Some(value));
        }
    }
}

#[cfg(test)]
pub(crate) mod typos;
