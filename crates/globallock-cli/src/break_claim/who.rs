//! Who runs this program, for those who read later what it did.

use globallock::Owner;
use nix::unistd::{Uid, User};

/// The number that the kernel has for nobody who has logged in.
const NOBODY: u32 = u32::MAX;

/// The user and the host, such as `alice@db1`, and who that was before a `sudo`: `root@db1 (sudo by alice)`.
pub(crate) fn operator() -> String {
    let user = Uid::effective();
    let host = Owner::current().host;
    let sudo = std::env::var("SUDO_USER").ok().filter(|name| !name.is_empty());
    of(&name(user), &host, sudo.or_else(logged_in).as_deref())
}

fn of(user: &str, host: &str, before: Option<&str>) -> String {
    match before.filter(|before| *before != user) {
        // Long names must leave room for each other in what the store keeps.
        Some(before) => format!("{}@{} (sudo by {})", short(user), short(host), short(before)),
        None => format!("{}@{}", short(user), short(host)),
    }
}

fn short(text: &str) -> &str {
    &text[..text.floor_char_boundary(64)]
}

/// The name of a user, or its number.
fn name(user: Uid) -> String {
    User::from_uid(user).ok().flatten().map_or_else(|| user.to_string(), |user| user.name)
}

/// Who has logged in and become another user by `sudo` or `su`, as the kernel knows it.
fn logged_in() -> Option<String> {
    let text = std::fs::read_to_string("/proc/self/loginuid").ok()?;
    let user = text.trim().parse().ok().filter(|user| *user != NOBODY)?;
    Some(name(Uid::from_raw(user)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operator_is_told_with_the_user_behind_sudo() {
        assert_eq!(of("alice", "db1", None), "alice@db1");
        assert_eq!(of("root", "db1", Some("alice")), "root@db1 (sudo by alice)");
        assert_eq!(of("root", "db1", Some("root")), "root@db1");
        assert_eq!(of(&"a".repeat(100), "h", None).len(), 66);
        assert!(operator().starts_with(&format!("{}@", name(Uid::effective()))));
    }

    #[test]
    fn a_user_without_a_name_is_a_number() {
        assert_eq!(name(Uid::from_raw(0)), "root");
        assert_eq!(name(Uid::from_raw(4_000_000_001)), "4000000001");
    }
}
