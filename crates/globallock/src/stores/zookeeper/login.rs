//! How a user answers the challenge of a server: SASL's DIGEST-MD5, which is RFC 2831 with the names that
//! ZooKeeper's servers expect.

use std::fmt::Write;

use md5::{Digest, Md5};

use super::failure::Failure;
use super::wire::ErrorCode;

/// The service and host name that all servers expect, whatever the name of their host is.
const URI: &str = "zookeeper/zk-sasl-md5";

/// Answers a challenge of a server.
pub(super) fn respond_to(challenge: &str, user: &str, password: &str) -> Result<String, Failure> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|error| Failure::Lost(error.to_string()))?;
    respond(challenge, (user, password), URI, &hex(&random)).ok_or(Failure::Refused(ErrorCode::AUTH_FAILED))
}

/// Answers a challenge; `None` if it is not one of DIGEST-MD5.
fn respond(challenge: &str, (user, password): (&str, &str), uri: &str, client_nonce: &str) -> Option<String> {
    let nonce = directive(challenge, "nonce")?;
    let realm = directive(challenge, "realm").unwrap_or("");
    let secret = Md5::digest(format!("{user}:{realm}:{password}"));
    let mut session = secret.to_vec();
    session.extend(format!(":{nonce}:{client_nonce}").as_bytes());
    let asked = hex(&Md5::digest(format!("AUTHENTICATE:{uri}")));
    let proof = format!("{}:{nonce}:00000001:{client_nonce}:auth:{asked}", hex(&Md5::digest(session)));
    let proof = hex(&Md5::digest(proof));
    let quoted = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"");
    let (user, realm) = (quoted(user), quoted(realm));
    Some(format!(
        "charset=utf-8,username=\"{user}\",realm=\"{realm}\",nonce=\"{nonce}\",nc=00000001,\
         cnonce=\"{client_nonce}\",digest-uri=\"{uri}\",maxbuf=65536,response={proof},qop=auth"
    ))
}

/// The value of one `key="value"` or `key=value` of a challenge.
fn directive<'a>(challenge: &'a str, wanted: &str) -> Option<&'a str> {
    let mut rest = challenge;
    loop {
        let (key, after) = rest.split_once('=')?;
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => after.split_at(after.find(',').unwrap_or(after.len())),
        };
        if key.trim() == wanted {
            return Some(value);
        }
        rest = after.strip_prefix(',')?;
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_challenge_is_parsed() {
        let challenge = r#"realm="zk, sasl",nonce="a=b",charset=utf-8,algorithm=md5-sess"#;
        assert_eq!(directive(challenge, "realm"), Some("zk, sasl"));
        assert_eq!(directive(challenge, "nonce"), Some("a=b"));
        assert_eq!(directive(challenge, "algorithm"), Some("md5-sess"));
        assert_eq!(directive(challenge, "qop"), None);
    }

    /// The example of RFC 2831, chapter 4.
    #[test]
    fn a_challenge_is_answered() {
        let login = ("chris", "secret");
        let challenge = concat!(
            r#"realm="elwood.innosoft.com",nonce="OA6MG9tEQGm2hh",qop="auth","#,
            "algorithm=md5-sess,charset=utf-8",
        );
        let response = respond(challenge, login, "imap/elwood.innosoft.com", "OA6MHXh6VqTrRk").unwrap();
        assert!(response.contains("response=d388dad90d4bbd760a152321f2143af7,"), "{response}");
        assert_eq!(respond("realm=x", login, URI, "c"), None);
    }
}
