//! Which requests are answered at all: from whom, for which host, and from which page.

use std::net::{IpAddr, SocketAddr};
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

/// What is checked of each request before it is answered.
#[derive(Debug)]
pub(super) struct Gate {
    /// Whether only this host reaches it, so that whoever asks needs no secret.
    is_local: bool,
    secrets: Option<Secrets>,
    /// The names under which it is reached beside its addresses.
    hosts: Vec<String>,
    /// What shows that a request comes from a page of this process.
    token: String,
}

impl Gate {
    pub(super) fn new(
        bound: SocketAddr,
        secrets: Option<Secrets>,
        hosts: &[String],
    ) -> Result<Self, Failure> {
        let token = random::digits::<32>()?;
        let hosts = hosts.iter().map(|host| host.to_ascii_lowercase()).collect();
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
        let Some(host) = host_of(authority) else { return false };
        if self.hosts.contains(&host) {
            return true;
        }
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
                authority.is_some_and(|authority| {
                    host_and_port(authority) == host
                        || host_of(authority).is_some_and(|host| self.hosts.contains(&host))
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

/// The host of a host and port, in lower case.
fn host_of(authority: &str) -> Option<String> {
    host_and_port(authority).map(|(host, _)| host)
}

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
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
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
