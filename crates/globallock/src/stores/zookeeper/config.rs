//! The settings of a store, from the address of a ZooKeeper ensemble.

use std::time::Duration;

use super::naming::{Layout, Naming};
use super::wire::Acl;
use crate::error::Result;
use crate::stores::address::Address;
use crate::stores::address::password::Password;
use crate::stores::notices::StoreNotices;
use crate::stores::transport::{Expected, Speech, Transport};

const OPTIONS: &[&str] = &["prefix", "naming", "auth", "acl", "timeout", "password_file", "password_command"];

/// What is at the end of an address.
const ZOOKEEPER: Expected = Expected {
    name: "ZooKeeper",
    speech: Speech::ZooKeeper,
    shares_port: true,
    protocols: &[],
    check: "check host and port, and that the port is not one at which the servers follow or elect a leader \
            (2888 and 3888 by default)",
};

/// How the user authenticates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scheme {
    Digest,
    Sasl,
}

/// User and password.
pub(super) struct Login {
    pub(super) scheme: Scheme,
    pub(super) user: String,
    pub(super) password: Password,
}

/// A store's settings.
pub(super) struct Config {
    pub(super) layout: Layout,
    /// How long one request may take.
    pub(super) timeout: Duration,
    /// The address without its password.
    pub(super) shown: String,
    pub(super) hosts: Vec<(String, u16)>,
    pub(super) login: Option<Login>,
    pub(super) acl: Vec<Acl>,
    pub(super) transport: Transport,
    /// What its connections notice.
    pub(super) notices: StoreNotices,
}

impl Config {
    pub(super) fn new(mut address: Address) -> Result<Self> {
        let prefix = address.take("prefix").unwrap_or_else(|| "/_glocks".to_owned());
        let naming = match address.take("naming").as_deref() {
            None | Some("kazoo") => Naming::Kazoo,
            Some("curator") => Naming::Curator,
            Some(other) => {
                return Err(address.wrong(format!("the option naming is {other:?}, not kazoo or curator")));
            }
        };
        let timeout = address.take_timeout()?;
        let login = login(&mut address)?;
        let acl = acl(&mut address, login.is_some())?;
        let transport = Transport::new(&mut address, &ZOOKEEPER)?;
        address.finish(OPTIONS)?;
        if address.hosts.is_empty() {
            return Err(address.wrong("it needs hosts, such as zookeeper://h1:2181,h2,h3/chroot"));
        }
        address.has_its_path_once("zookeeper://h1,h2,h3/chroot")?;
        let root = format!("/{}/{}", address.path, prefix);
        let parts: Vec<&str> = root.split('/').filter(|part| !part.is_empty()).collect();
        let bad =
            |part: &&str| matches!(*part, "." | "..") || part.chars().any(|c| !super::naming::is_allowed(c));
        if let Some(part) = parts.iter().find(|part| bad(part)) {
            return Err(address.wrong(format!("ZooKeeper has no nodes named {part:?}")));
        }
        let root = parts.iter().flat_map(|part| ["/", part]).collect();
        // ZooKeeper has no default port for TLS, so 2181 is the default with TLS too.
        let hosts = address.hosts.iter().map(|(host, port)| (host.clone(), port.unwrap_or(2181))).collect();
        let layout = Layout { root, naming };
        let (shown, notices) = (address.to_string(), StoreNotices::default());
        Ok(Config { layout, timeout, shown, hosts, login, acl, transport, notices })
    }
}

fn login(address: &mut Address) -> Result<Option<Login>> {
    let scheme = match address.take("auth").as_deref() {
        None | Some("digest") => Scheme::Digest,
        Some("sasl") => Scheme::Sasl,
        Some(other) => return Err(address.wrong(format!("the option auth is {other:?}, not digest or sasl"))),
    };
    Ok(address.take_login()?.map(|(user, password)| Login { scheme, user, password }))
}

fn acl(address: &mut Address, known_user: bool) -> Result<Vec<Acl>> {
    let text = address.take("acl").unwrap_or_else(|| "open".to_owned());
    let rule = |scheme: &str, id: &str| Acl { scheme: scheme.to_owned(), id: id.to_owned() };
    let rules = text.split(',').map(|part| match part.split_once(':') {
        None if part == "open" => Ok(rule("world", "anyone")),
        None if part == "creator" && known_user => Ok(rule("auth", "")),
        None if part == "creator" => {
            Err(address.wrong("the option acl=creator needs a user: zookeeper://user:password@host"))
        }
        Some((scheme @ ("digest" | "sasl" | "ip" | "x509"), id)) if !id.is_empty() => Ok(rule(scheme, id)),
        _ => Err(address.wrong(
            "the option acl is a list of open, creator, digest:USER:HASH, sasl:USER, ip:ADDRESS \
             and x509:NAME",
        )),
    });
    rules.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stores::address::typos::{shows_no_password, with_typo};
    use proptest::prelude::*;

    const GOOD: &[&str] = &[
        "zookeeper://user:QQQQQQQQ@127.0.0.1:1,h2:2/apps/one?prefix=a&naming=curator",
        "zookeeper://user:1QQQQQQQQ@[::1]?auth=sasl&acl=creator",
        "zookeepers://user:QQQQQQQQ@host?acl=world:anyone&timeout=1s",
    ];

    fn config(text: &str) -> Result<Config> {
        Address::parse(text).and_then(Config::new)
    }

    #[test]
    fn the_acl_is_a_list_of_users_with_all_rights() {
        let rules = |acl: &str, user: &str| -> Option<Vec<(String, String)>> {
            let config = config(&format!("zookeeper://{user}h?acl={acl}")).ok()?;
            Some(config.acl.into_iter().map(|rule| (rule.scheme, rule.id)).collect())
        };
        let owned = |rules: &[(&str, &str)]| {
            Some(rules.iter().map(|(scheme, id)| ((*scheme).to_owned(), (*id).to_owned())).collect())
        };
        assert_eq!(rules("open", ""), owned(&[("world", "anyone")]));
        assert_eq!(rules("creator", "u:p@"), owned(&[("auth", "")]));
        assert_eq!(rules("creator", ""), None, "nobody is the creator");
        let several = "ip:10.0.0.0,sasl:me,digest:u:h,x509:CN";
        let all = [("ip", "10.0.0.0"), ("sasl", "me"), ("digest", "u:h"), ("x509", "CN")];
        assert_eq!(rules(several, ""), owned(&all));
        for wrong in ["", "closed", "world:anyone", "ip:", "digest:", "open,", "open:x"] {
            assert_eq!(rules(wrong, "u:p@"), None, "{wrong}");
        }
        assert!(config("zookeeper://h").is_ok_and(|config| config.acl.len() == 1), "open by default");
    }

    #[test]
    fn options_default_to_those_of_the_recipes() {
        let config = config("zookeeper://h1,h2:9/root").unwrap();
        assert_eq!(config.layout.root, "/root/_glocks");
        assert_eq!(config.hosts, [("h1".to_owned(), 2181), ("h2".to_owned(), 9)]);
        assert_eq!(config.timeout, Duration::from_secs(2));
    }

    proptest! {
        #[test]
        fn no_typo_in_an_address_shows_its_password(text in with_typo(GOOD)) {
            let made = Address::parse(&text).and_then(Config::new);
            shows_no_password(&text, made, |config| config.shown.clone());
        }
    }
}
