//! Who may ask, under which name, and from which page.

use super::{Server, holder, order, served};
use crate::support::TestStore;

#[test]
fn every_answer_keeps_a_browser_from_doing_more_with_it() {
    let (_store, server) = served(&[]);
    for (path, status) in
        [("/", 200), ("/page.js", 200), ("/api/locks", 200), ("/nothing", 404), ("/metrics", 200)]
    {
        let reply = server.get(path);
        assert_eq!(reply.status, status, "{path}");
        let policy = reply.header("content-security-policy");
        for part in ["default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "base-uri 'none'"] {
            assert!(policy.split("; ").any(|found| found == part), "{path}: {policy}");
        }
        assert!(!policy.contains("unsafe") && !policy.contains('*'), "{policy}");
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "DENY"),
            ("referrer-policy", "no-referrer"),
            ("cross-origin-resource-policy", "same-origin"),
        ] {
            assert_eq!(reply.header(name), value, "{path}");
        }
        let allowed = reply.headers.keys().filter(|name| name.starts_with("access-control-")).count();
        assert_eq!(allowed, 0, "{path}: no other site may read it");
        let cached = reply.header("cache-control");
        assert!(["no-store", "no-cache"].contains(&cached), "{path}: {cached}");
    }
    let page = server.get("/").body;
    for hidden in ["<style", "style=", " onclick", "http://", "https://", "<script>"] {
        assert!(!page.contains(hidden), "the page has {hidden}");
    }
}

#[test]
fn a_name_that_was_led_to_this_server_is_not_answered() {
    let (_store, server) = served(&["--allow-host", "locks.example.org"]);
    let host = |host: &str| server.connect().request("GET", "/api/session", &[("host", host)], "").status;
    let port = server.port;
    for right in ["localhost", "127.0.0.1", "[::1]:80", "locks.example.org", &format!("LOCALHOST:{port}")] {
        assert_eq!(host(right), 200, "{right}");
    }
    for wrong in
        ["evil.example", "localhost.evil.example", "10.0.0.7", "", "a b", &format!("evil.example:{port}")]
    {
        assert_eq!(host(wrong), 421, "{wrong}");
    }
    let absolute = server.connect().request("GET", "http://evil.example/api/session", &[], "");
    assert_eq!(absolute.status, 421);
    let mut none = server.connect();
    none.write(b"GET /api/session HTTP/1.1\r\n\r\n");
    assert_eq!(none.reply().unwrap().status, 400);
    let mut two = server.connect();
    two.write(b"GET /api/session HTTP/1.1\r\nhost: localhost\r\nhost: evil.example\r\n\r\n");
    assert_eq!(two.reply().unwrap().status, 400);
}

#[test]
fn a_page_of_another_site_can_neither_ask_nor_change_anything() {
    let (store, server) = served(&["--allow-break"]);
    let held = holder(&store, "a");
    let claim = server.get("/api/lock?name=a").json()["claims"][0]["claim"].as_str().unwrap().to_owned();
    let order = order("a", &claim, true, "").to_string();
    let token = server.token();
    let own = format!("http://127.0.0.1:{}", server.port);
    let send = |more: &[(&str, &str)]| {
        let headers = [&[("content-type", "application/json")], more].concat();
        server.connect().request("POST", "/api/break", &headers, &order).status
    };
    assert_eq!(send(&[]), 403, "without the token");
    assert_eq!(send(&[("origin", &own)]), 403, "an origin is no token");
    let with = |name: &str, value: &str| send(&[("x-globallock-token", &*token), (name, value)]);
    assert_eq!(send(&[("x-globallock-token", &"0".repeat(64))]), 403, "of another process");
    for origin in ["null", "https://evil.example", "http://localhost:1", &format!("{own}.evil.example")] {
        assert_eq!(with("origin", origin), 403, "{origin}");
    }
    for site in ["cross-site", "same-site"] {
        assert_eq!(with("sec-fetch-site", site), 403, "{site}");
        let asked = server.connect().request("GET", "/api/events", &[("sec-fetch-site", site)], "");
        assert_eq!(asked.status, 403, "{site}");
        let followed = server.connect().request("GET", "/", &[("sec-fetch-site", site)], "");
        assert_eq!(followed.status, 200, "a link of another site leads here");
    }
    assert_eq!(server.get("/api/lock?name=a").json()["claims"][0]["claim"], claim, "it holds on");
    // One without the token, one with an origin alone, one with another token, four origins; and of two
    // sites, one order and one request for the events.
    let counted = "globallock_serve_refused_total 11\n";
    assert!(server.get("/metrics").body.contains(counted), "{}", server.get("/metrics").body);
    assert_eq!(with("origin", &own), 200);
    drop(held);
}

#[test]
fn without_allow_break_nothing_can_be_changed() {
    let (store, server) = served(&[]);
    let held = holder(&store, "a");
    let claim = server.get("/api/lock?name=a").json()["claims"][0]["claim"].as_str().unwrap().to_owned();
    let order = order("a", &claim, true, "").to_string();
    let headers = [("content-type", "application/json"), ("x-globallock-token", "")];
    let refused = server.connect().request("POST", "/api/break", &headers, &order);
    assert_eq!(refused.status, 403);
    assert!(refused.body.contains("it was started without --allow-break"), "{refused:?}");
    assert_eq!(held.end(), Some(0));
}

#[test]
fn with_secrets_nothing_but_the_health_is_told_to_others() {
    let store = TestStore::new();
    let [users, tokens] = ["users", "tokens"].map(|file| store.path(file));
    std::fs::write(&users, "alice:a-long-password-1\nbob:a-long-password-2\n").unwrap();
    std::fs::write(&tokens, "# Prometheus\n0123456789abcdef0123\n").unwrap();
    let [users, tokens] = [&users, &tokens].map(|file| file.to_str().unwrap());
    let server = Server::of(&store.url(), &["--auth-file", users, "--token-file", tokens, "--allow-break"]);
    // alice:a-long-password-1, the same with another password, and any name with the token.
    let alice = "Basic YWxpY2U6YS1sb25nLXBhc3N3b3JkLTE=";
    let wrong = "Basic YWxpY2U6YS1sb25nLXBhc3N3b3JkLTI=";
    let token = "Bearer 0123456789abcdef0123";
    let get = |path: &str, header: Option<&str>| {
        let headers: Vec<_> = header.map(|header| ("authorization", header)).into_iter().collect();
        server.connect().request("GET", path, &headers, "")
    };
    for path in ["/", "/page.js", "/api/session", "/api/locks", "/api/events", "/metrics", "/nothing"] {
        for header in [None, Some(wrong), Some("Bearer 0123456789abcdef0124"), Some("Basic"), Some("Bearer ")]
        {
            let refused = get(path, header);
            assert_eq!(refused.status, 401, "{path} {header:?}");
            assert!(refused.header("www-authenticate").starts_with("Basic realm="), "{refused:?}");
        }
    }
    assert_eq!(get("/healthz", None).status, 200);
    assert_eq!(get("/api/session", Some(alice)).json()["user"], "alice");
    let metrics = get("/metrics", Some(token));
    assert_eq!(metrics.status, 200);
    assert!(metrics.body.contains("globallock_serve_refused_total 35\n"), "{}", metrics.body);
    for secret in ["a-long-password", "0123456789abcdef"] {
        for path in ["/", "/api/session", "/metrics"] {
            assert!(!get(path, Some(alice)).body.contains(secret), "{path} has {secret}");
        }
    }
    // Who has broken a claim is the one who has shown a password, whatever --as says.
    let held = holder(&store, "a");
    let asked = get("/api/lock?name=a", Some(alice)).json();
    let order = order("a", asked["claims"][0]["claim"].as_str().unwrap(), true, "");
    let csrf = get("/api/session", Some(alice)).json()["token"].as_str().unwrap().to_owned();
    let headers =
        [("content-type", "application/json"), ("x-globallock-token", &*csrf), ("authorization", alice)];
    let broken = server.connect().request("POST", "/api/break", &headers, &order.to_string());
    assert_eq!((broken.status, &broken.json()["by"]), (200, &serde_json::json!("alice")), "{broken:?}");
    held.warns("it was broken by alice (pid ");
}
