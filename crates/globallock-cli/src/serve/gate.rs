//! Which requests are answered at all: from whom, for which host, and from which page.

use std::fmt::{self, Display, Formatter};
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{self, HeaderMap, HeaderName};
use axum::http::uri::Authority;
use axum::http::{HeaderValue, Method, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::Response;
use subtle::ConstantTimeEq;

use super::Site;
use super::files;
use super::secrets::{Secrets, User};
use super::view::refused;
use crate::exit::Failure;
use crate::random;

/// The header that a page of this server sends with what changes something. Other sites' pages cannot read
/// the token that it has, and may not send the header either.
pub(super) const TOKEN: HeaderName = HeaderName::from_static("x-globallock-token");

const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// A name under which this server is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AllowedHost {
    host: String,
    /// None: any.
    port: Option<u16>,
}

impl FromStr for AllowedHost {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_of_a_name = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        let found = host_and_port(text).filter(|(host, _)| match host.strip_prefix('[') {
            Some(address) => address.strip_suffix(']').is_some_and(|text| text.parse::<IpAddr>().is_ok()),
            None => host.chars().all(is_of_a_name),
        });
        let (host, port) = found.ok_or(
            "write the name of a host, with a port or without, such as locks.example.org or \
             locks.example.org:8443: no scheme and no path",
        )?;
        Ok(AllowedHost { host, port })
    }
}

impl Display for AllowedHost {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => write!(f, "{}:{port}", self.host),
            None => f.write_str(&self.host),
        }
    }
}

impl AllowedHost {
    /// Browsers leave out a port that belongs to the scheme.
    fn is(&self, (host, port): &(String, Option<u16>)) -> bool {
        let is_left_out = |own| port.is_none() && [80, 443].contains(&own);
        self.host == *host && self.port.is_none_or(|own| *port == Some(own) || is_left_out(own))
    }
}

/// What is checked of each request before it is answered.
#[derive(Debug)]
pub(super) struct Gate {
    /// Whether only this host reaches it, so that whoever asks needs no secret.
    is_local: bool,
    secrets: Option<Secrets>,
    /// The names under which it is reached beside its addresses.
    hosts: Vec<AllowedHost>,
    /// What shows that a request comes from a page of this process.
    token: String,
}

impl Gate {
    pub(super) fn new(
        bound: SocketAddr,
        secrets: Option<Secrets>,
        hosts: &[AllowedHost],
    ) -> Result<Self, Failure> {
        let token = random::digits::<32>()?;
        let hosts = hosts.to_vec();
        Ok(Gate { is_local: bound.ip().to_canonical().is_loopback(), secrets, hosts, token })
    }

    /// What a page sends in the header [`TOKEN`].
    pub(super) fn token(&self) -> &str {
        &self.token
    }

    /// Whether this server is reached under this host name or address, with a port or without.
    ///
    /// A page of another site can have its own name lead to this server, and would then pass for one of this
    /// server's pages: an address cannot be led elsewhere, a name can. Where a secret is asked for, a browser
    /// does not send it under another name.
    fn answers_for(&self, authority: &str) -> bool {
        let Some(named) = host_and_port(authority) else { return false };
        if self.hosts.iter().any(|host| host.is(&named)) {
            return true;
        }
        let (host, _) = named;
        let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        match (self.is_local, address) {
            (true, Ok(address)) => address.to_canonical().is_loopback(),
            (true, Err(_)) => host == "localhost",
            (false, Ok(_)) => true,
            (false, Err(_)) => self.hosts.is_empty(),
        }
    }

    /// Whether a request that changes something comes from a page of this server, or from no page.
    ///
    /// # Errors
    /// What is wrong.
    pub(super) fn check_origin(&self, headers: &HeaderMap) -> Result<(), &'static str> {
        let host = headers.get(header::HOST).and_then(text).and_then(host_and_port);
        let origin = headers.get_all(header::ORIGIN).iter().collect::<Vec<_>>();
        let is_own = match origin[..] {
            [] => true,
            [origin] => text(origin).is_some_and(|origin| {
                let authority = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
                authority.and_then(host_and_port).is_some_and(|from| {
                    Some(&from) == host.as_ref() || self.hosts.iter().any(|host| host.is(&from))
                })
            }),
            _ => false,
        };
        if !is_own {
            return Err("this request comes from a page of another site: see --allow-host");
        }
        let given = headers.get(TOKEN).map(HeaderValue::as_bytes).unwrap_or_default();
        if !bool::from(given.ct_eq(self.token.as_bytes())) {
            return Err("the token of this server is missing or an older one: load the page again");
        }
        Ok(())
    }

    /// Who has asked, unless the request is not to be answered.
    fn check(&self, method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<User, Box<Response>> {
        let hosts = headers.get_all(header::HOST).iter().collect::<Vec<_>>();
        let [host] = hosts[..] else {
            return Err(Box::new(refused(StatusCode::BAD_REQUEST, "one header Host is needed")));
        };
        let named = [text(host), uri.authority().map(Authority::as_str)];
        let is_ours = |host: &Option<&str>| host.is_some_and(|host| self.answers_for(host));
        if !is_ours(&named[0]) || (named[1].is_some() && !is_ours(&named[1])) {
            return Err(Box::new(refused(
                StatusCode::MISDIRECTED_REQUEST,
                "this server does not answer for that host: see --allow-host",
            )));
        }
        // Asked for by another site's page, nothing of this is of use to a person, but it costs.
        let site = headers.get(FETCH_SITE).and_then(text);
        let is_page = uri.path() == "/" && method == Method::GET;
        if !is_page && site.is_some_and(|site| !["same-origin", "none"].contains(&site)) {
            return Err(Box::new(refused(
                StatusCode::FORBIDDEN,
                "this request comes from a page of another site",
            )));
        }
        let Some(secrets) = self.secrets.as_ref().filter(|_| uri.path() != "/healthz") else {
            return Ok(User::default());
        };
        let user = headers.get(header::AUTHORIZATION).and_then(text).and_then(|header| secrets.user(header));
        user.ok_or_else(|| {
            let mut refused =
                refused(StatusCode::UNAUTHORIZED, "a name and a password, or a token, are needed");
            let how = HeaderValue::from_static("Basic realm=\"globallock\", charset=\"UTF-8\"");
            refused.headers_mut().insert(header::WWW_AUTHENTICATE, how);
            Box::new(refused)
        })
    }
}

fn text(value: &HeaderValue) -> Option<&str> {
    value.to_str().ok()
}

/// The host, in lower case, and the port of a host and port.
fn host_and_port(authority: &str) -> Option<(String, Option<u16>)> {
    let end = if authority.starts_with('[') {
        authority.find(']')? + 1
    } else {
        authority.find(':').unwrap_or(authority.len())
    };
    let (host, port) = authority.split_at(end);
    let port = match port.strip_prefix(':') {
        Some(port) => Some(port.parse().ok()?),
        None if port.is_empty() => None,
        None => return None,
    };
    (!host.is_empty()).then(|| (host.to_ascii_lowercase(), port))
}

/// Lets a request pass, or answers it; and adds to the answer what keeps a browser from doing more with it
/// than is meant.
pub(super) async fn guard(State(site): State<Arc<Site>>, mut request: Request, next: Next) -> Response {
    site.counts.count_request();
    let mut answer = match site.gate.check(request.method(), request.uri(), request.headers()) {
        Ok(user) => {
            request.extensions_mut().insert(user);
            next.run(request).await
        }
        Err(answer) => {
            site.counts.count_refused();
            *answer
        }
    };
    for (name, value) in files::SECURITY {
        answer.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    answer.headers_mut().entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(bound: &str, hosts: &[&str]) -> Gate {
        let hosts: Vec<AllowedHost> = hosts.iter().map(|host| host.parse().unwrap()).collect();
        Gate::new(bound.parse().unwrap(), None, &hosts).unwrap_or_else(|_| panic!("there is randomness"))
    }

    #[test]
    fn a_name_of_another_site_is_not_answered_for() {
        let local = gate("127.0.0.1:7117", &["Locks.example.org"]);
        let open = gate("0.0.0.0:7117", &[]);
        let named = gate("0.0.0.0:7117", &["locks.example.org"]);
        for (host, expected) in [
            ("localhost", [true, true, false]),
            ("LOCALHOST:7117", [true, true, false]),
            ("127.0.0.1:7117", [true, true, true]),
            ("127.8.9.1", [true, true, true]),
            ("[::1]:7117", [true, true, true]),
            ("10.0.0.7:7117", [false, true, true]),
            ("[2001:db8::1]", [false, true, true]),
            ("locks.example.org:443", [true, true, true]),
            ("evil.example", [false, true, false]),
            ("localhost.evil.example", [false, true, false]),
            ("127.0.0.1.evil.example", [false, true, false]),
            ("127.0.0.1@evil.example", [false, true, false]),
            ("localhost:port", [false, false, false]),
            ("localhost:1:2", [false, false, false]),
            ("[::1", [false, false, false]),
            ("[::1]x", [false, false, false]),
            (":7117", [false, false, false]),
            ("", [false, false, false]),
        ] {
            assert_eq!([&local, &open, &named].map(|gate| gate.answers_for(host)), expected, "{host}");
        }
    }

    #[test]
    fn a_host_is_allowed_by_its_name_and_its_port_if_one_is_given() {
        let allows = |host: &str, authority: &str| gate("127.0.0.1:7117", &[host]).answers_for(authority);
        for (host, expected) in [
            ("Locks.example.org", [true, true, true]),
            ("locks.example.org:8443", [false, false, true]),
            ("locks.example.org:443", [true, true, false]),
        ] {
            let seen = ["locks.example.org", "locks.example.org:443", "locks.example.org:8443"];
            assert_eq!(seen.map(|authority| allows(host, authority)), expected, "{host}");
        }
        assert!("[2001:db8::1]:8443".parse::<AllowedHost>().is_ok());
        for wrong in
            ["", "https://a.example", "a.example/", "a b", "a@b", "*.example", ":80", "a:x", "[::x]", "é"]
        {
            assert!(wrong.parse::<AllowedHost>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn only_a_page_of_this_server_changes_something() {
        let gate = gate("127.0.0.1:7117", &["locks.example.org"]);
        let token = gate.token().to_owned();
        let check = |token: Option<&str>, origins: &[&'static str]| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, HeaderValue::from_static("127.0.0.1:7117"));
            headers.extend(token.map(|token| (TOKEN, HeaderValue::from_str(token).unwrap())));
            for origin in origins {
                headers.append(header::ORIGIN, HeaderValue::from_static(origin));
            }
            gate.check_origin(&headers).is_ok()
        };
        for origins in [&[][..], &["http://127.0.0.1:7117"], &["https://locks.example.org"]] {
            assert!(check(Some(&token), origins), "{origins:?}");
            for wrong in [None, Some(""), Some(&token[1..]), Some(&*format!("{token}0"))] {
                assert!(!check(wrong, origins), "{origins:?} {wrong:?}");
            }
        }
        for origins in [
            &["null"][..],
            &["http://evil.example"],
            &["http://127.0.0.1:7118"],
            &["http://127.0.0.1"],
            &["127.0.0.1:7117"],
            &["http://127.0.0.1:7117", "http://evil.example"],
        ] {
            assert!(!check(Some(&token), origins), "{origins:?}");
        }
    }
}
