//! Who logs in: the user, and the password as it is now, wherever it is.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::config::Place;
use super::failure::{Failure, Kind};
use super::passfile::{Found, Passfile};
use super::service::{Settings, Surroundings};
use crate::error::Result;
use crate::stores::address::Address;
use crate::stores::address::password::{NoLogin, Password};

/// Where the users of the operating system are listed.
const USERS: &str = "/etc/passwd";

/// User and password.
pub(super) struct Login {
    pub(super) user: String,
    password: Option<Password>,
    /// Where the password is looked for if the address has none.
    passfile: Passfile,
    /// The password of a service, which comes before the file.
    of_service: Option<String>,
    /// Whether a server has accepted one from the file.
    was_accepted: AtomicBool,
}

/// The password that a login is tried with.
pub(super) struct Tried {
    pub(super) password: Option<String>,
    /// Why the file of passwords has none.
    unread: Option<String>,
}

impl Login {
    pub(super) fn new(address: &mut Address, settings: &mut Settings) -> Result<Self> {
        let user = address.user.clone().or(settings.of_service("user"));
        let Some(user) = user.or_else(|| user_of_system(settings.surroundings())) else {
            let reason = format!(
                "it names no user, and this process has none with a name: write {}://user@host",
                address.scheme
            );
            return Err(address.wrong(reason));
        };
        let passfile = settings.take(address, "passfile");
        let passfile = Passfile::new(passfile, settings.surroundings());
        let of_service = settings.of_service("password");
        let password = address.take_password("")?;
        Ok(Login { user, password, passfile, of_service, was_accepted: AtomicBool::new(false) })
    }

    /// How long it may take to find the password.
    pub(super) fn takes(&self, limit: Duration) -> Duration {
        self.password.as_ref().map_or(Duration::ZERO, |password| password.takes(limit))
    }

    /// Reads the password, if there is one. A server would not wait for that, so it comes first.
    ///
    /// # Cancel safety
    /// A command that runs is killed.
    pub(super) async fn read(
        &self,
        place: &Place,
        database: &str,
        limit: Duration,
    ) -> Result<Tried, Failure> {
        if let Some(password) = &self.password {
            return match password.read_for_login(limit).await {
                Ok(read) => Ok(Tried { password: Some(read), unread: None }),
                Err(NoLogin { why, may_heal: true }) => Err(Failure::new(Kind::NotNow, why)),
                Err(NoLogin { why, may_heal: false }) => Err(Failure::new(Kind::PermissionDenied, why)),
            };
        }
        if let Some(password) = &self.of_service {
            return Ok(Tried { password: Some(password.clone()), unread: None });
        }
        Ok(match self.passfile.find(place, database, &self.user, limit).await {
            Found::Password(password) => Tried { password: Some(password), unread: None },
            Found::Nothing => Tried { password: None, unread: None },
            Found::Unread(why) => Tried { password: None, unread: Some(why) },
        })
    }

    /// Notes that a server has accepted the password.
    pub(super) fn accepted(&self) {
        self.was_accepted.store(true, Ordering::Relaxed);
        if let Some(password) = &self.password {
            password.accepted();
        }
    }

    /// What a failed login with this password means, which may be another one now.
    ///
    /// # Cancel safety
    /// A command that runs is killed.
    pub(super) async fn judged(&self, failure: Failure, tried: &Tried, limit: Duration) -> Failure {
        if failure.wants_password() {
            let unread = tried.unread.as_ref().map(|why| format!(" ({}: {why})", self.passfile.shown()));
            let reason = format!(
                "it wants a password: put user and password into the address, or the password into {}{}",
                self.passfile.shown(),
                unread.unwrap_or_default()
            );
            return Failure::new(Kind::PermissionDenied, reason);
        }
        if !failure.is_wrong_login() {
            return failure;
        }
        match (&self.password, &tried.password) {
            (Some(password), Some(used)) => failure.of_login(password.refused(used, limit).await),
            (None, Some(_)) if self.of_service.is_some() => failure.of_login(NoLogin {
                why: "the user name or the password in the service that the address names is wrong"
                    .to_owned(),
                may_heal: false,
            }),
            (None, Some(_)) => failure.of_login(NoLogin {
                why: format!("the user name or the password in {} is wrong", self.passfile.shown()),
                may_heal: self.was_accepted.load(Ordering::Relaxed),
            }),
            (_, None) => failure,
        }
    }
}

/// The name of the user of the operating system who runs this process.
fn user_of_system(surroundings: &Surroundings) -> Option<String> {
    let id = rustix::process::geteuid().as_raw();
    let listed = std::fs::read_to_string(USERS).ok().and_then(|text| user_in(&text, id));
    let variable = |name| surroundings.path(name).and_then(|name| name.into_os_string().into_string().ok());
    listed.or_else(|| variable("USER")).or_else(|| variable("LOGNAME"))
}

/// The name of the user of this number, in the text of the list of users.
fn user_in(text: &str, id: u32) -> Option<String> {
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        (fields.nth(1)?.parse() == Ok(id)).then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_of_a_number_is_in_the_list_of_users() {
        let list = "root:x:0:0:root:/root:/bin/sh\n\n:x:5:\nbad\napp:x:1000:1000::/:/bin/sh\n";
        for (id, name) in [(0, Some("root")), (1000, Some("app")), (5, None), (7, None)] {
            assert_eq!(user_in(list, id).as_deref(), name, "{id}");
        }
    }
}
