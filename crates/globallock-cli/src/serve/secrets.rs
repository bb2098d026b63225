//! Who may see the page: names and passwords, and tokens, in files.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::exit::Failure;
use crate::log;

/// The longest file of secrets, in bytes.
const MAX_FILE: u64 = 64 * 1024;

/// The shortest secret, in bytes. As long as this, a random one cannot be guessed over a network.
const SHORTEST: usize = 16;

/// Who may see the page.
pub(super) struct Secrets {
    known: Vec<Known>,
}

/// A secret, as its digest, because digests of one length are compared in one time.
struct Known {
    /// The name that goes with it; none for a token, which goes with any.
    name: Option<String>,
    digest: [u8; 32],
}

/// Shows no secret.
impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secrets").field("known", &self.known.len()).finish()
    }
}

/// Who has asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct User {
    /// The name that a password has shown to be true.
    pub(super) name: Option<String>,
}

impl Secrets {
    /// Reads the files that are given; none if none is.
    pub(super) fn read(tokens: Option<&Path>, users: Option<&Path>) -> Result<Option<Self>, Failure> {
        let mut known = Vec::new();
        for (option, file) in [("--token-file", tokens), ("--auth-file", users)] {
            let Some(file) = file else { continue };
            let shown = file.display();
            let wrong = |what: &dyn std::fmt::Display| Failure::Usage(format!("{option} {shown}: {what}"));
            let mut text = String::new();
            File::open(file)
                .and_then(|file| file.take(MAX_FILE + 1).read_to_string(&mut text))
                .map_err(|error| wrong(&error))?;
            if text.len() as u64 > MAX_FILE {
                return Err(wrong(&"it is too long for a file of secrets"));
            }
            let found = parse(&text, option == "--auth-file").map_err(|what| wrong(&what))?;
            let others = fs::metadata(file).is_ok_and(|metadata| metadata.permissions().mode() & 0o004 != 0);
            if others {
                log::warning("password").say(format_args!(
                    "others can read the secrets in {shown}: take that right away (chmod o-r {shown})"
                ));
            }
            known.extend(found);
        }
        Ok((tokens.is_some() || users.is_some()).then_some(Secrets { known }))
    }

    /// Who sends this header `Authorization`, if a secret shows it. Takes one time whatever the header has.
    pub(super) fn user(&self, header: &str) -> Option<User> {
        let (scheme, rest) = header.trim().split_once(' ')?;
        let rest = rest.trim();
        let (name, secret) = if scheme.eq_ignore_ascii_case("bearer") {
            (None, rest.to_owned())
        } else if scheme.eq_ignore_ascii_case("basic") {
            let pair = String::from_utf8(BASE64_STANDARD.decode(rest).ok()?).ok()?;
            let (name, secret) = pair.split_once(':')?;
            (Some(name.to_owned()), secret.to_owned())
        } else {
            return None;
        };
        let digest: [u8; 32] = Sha256::digest(secret.as_bytes()).into();
        let mut found = None;
        for known in &self.known {
            let is_name = known.name.is_none() || known.name == name;
            if bool::from(known.digest.ct_eq(&digest)) & is_name {
                found = Some(User { name: known.name.clone() });
            }
        }
        found
    }
}

/// The secrets in the text of a file: one a line, of users after a name and a colon. Lines that are empty or
/// begin with # are skipped.
fn parse(text: &str, of_users: bool) -> Result<Vec<Known>, String> {
    let mut known = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let (number, line) = (number + 1, line.trim());
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, secret) = match line.split_once(':') {
            Some((name, secret)) if of_users && !name.is_empty() => (Some(name.to_owned()), secret),
            _ if of_users => return Err(format!("line {number} is not NAME:PASSWORD")),
            _ => (None, line),
        };
        if secret.len() < SHORTEST {
            return Err(format!(
                "the secret in line {number} is too short to be safe: write {SHORTEST} characters or more, \
                 such as openssl rand -hex 16 prints"
            ));
        }
        known.push(Known { name, digest: Sha256::digest(secret.as_bytes()).into() });
    }
    if known.is_empty() { Err("it has no secret".to_owned()) } else { Ok(known) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALICE: &str = "a-long-password: with colon";
    const TOKEN: &str = "0123456789abcdef";

    fn basic(pair: &str) -> String {
        format!("Basic {}", BASE64_STANDARD.encode(pair))
    }

    #[test]
    fn a_user_is_known_by_the_password_and_a_token_goes_with_any_name() {
        let mut known = parse(&format!("# users\n\nalice:{ALICE}\nbob:{ALICE}2\n"), true).unwrap();
        known.extend(parse(&format!("  {TOKEN}  \n"), false).unwrap());
        let secrets = Secrets { known };
        let name = |header: &str| secrets.user(header).map(|user| user.name);
        assert_eq!(name(&basic(&format!("alice:{ALICE}"))), Some(Some("alice".into())));
        assert_eq!(name(&basic(&format!("bob:{ALICE}2"))), Some(Some("bob".into())));
        for header in [format!("Bearer {TOKEN}"), format!("bearer  {TOKEN}"), basic(&format!("x:{TOKEN}"))] {
            assert_eq!(name(&header), Some(None), "{header}");
        }
        for header in [
            basic(&format!("bob:{ALICE}")),
            basic(&format!("alice:{ALICE}2")),
            basic(&format!(":{ALICE}")),
            basic("alice:"),
            basic("alice"),
            format!("Bearer {ALICE}"),
            format!("Bearer {TOKEN}0"),
            format!("Digest {TOKEN}"),
            format!("Basic {TOKEN}"),
            TOKEN.to_owned(),
            String::new(),
        ] {
            assert_eq!(name(&header), None, "{header}");
        }
        assert!(!format!("{secrets:?}").contains("digest"));
    }

    #[test]
    fn a_file_of_secrets_has_secrets_that_are_long_enough() {
        let wrong = |text: &str, of_users| parse(text, of_users).err().unwrap();
        assert_eq!(wrong("# none\n", false), "it has no secret");
        assert_eq!(wrong(&format!("{TOKEN}\n"), true), "line 1 is not NAME:PASSWORD");
        assert_eq!(wrong(&format!(":{TOKEN}\n"), true), "line 1 is not NAME:PASSWORD");
        let short = wrong(&format!("\nalice:{}\n", &TOKEN[1..]), true);
        assert!(short.starts_with("the secret in line 2 is too short to be safe"), "{short}");
    }
}
