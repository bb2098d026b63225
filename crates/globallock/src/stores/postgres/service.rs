//! The settings that are in no address but in files of the user: `pg_service.conf`, and where the files are.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::error::Result;
use crate::stores::address::{Address, printable};

/// Where libpq looks for the file of the whole system, which was chosen when it was built.
const SYSTEM: [&str; 2] = ["/etc/postgresql-common", "/etc"];
/// What a service may say, as in an address.
const KNOWN: &[&str] = &[
    "application_name",
    "channel_binding",
    "connect_timeout",
    "dbname",
    "host",
    "passfile",
    "password",
    "port",
    "sslcert",
    "sslkey",
    "sslmode",
    "sslrootcert",
    "target_session_attrs",
    "user",
];

/// What surrounds this process.
pub(super) struct Surroundings {
    pub(super) variable: fn(&str) -> Option<OsString>,
}

impl Surroundings {
    pub(super) fn real() -> Self {
        Surroundings { variable: |name| std::env::var_os(name) }
    }

    pub(super) fn path(&self, name: &str) -> Option<PathBuf> {
        (self.variable)(name).filter(|value| !value.is_empty()).map(PathBuf::from)
    }

    pub(super) fn home(&self) -> Option<PathBuf> {
        self.path("HOME")
    }
}

/// The settings of a service, for what the address leaves open.
pub(super) struct Settings {
    of_service: BTreeMap<String, String>,
    surroundings: Surroundings,
}

impl Settings {
    /// Reads the service that the address names, if it names one.
    pub(super) fn new(address: &mut Address, surroundings: Surroundings) -> Result<Self> {
        let of_service = match address.take("service") {
            None => BTreeMap::new(),
            Some(name) => service(&name, &surroundings).map_err(|reason| address.wrong(reason))?,
        };
        Ok(Settings { of_service, surroundings })
    }

    /// Takes an option out of the address, or else out of the service.
    pub(super) fn take(&mut self, address: &mut Address, key: &str) -> Option<String> {
        let of_service = self.of_service.remove(key);
        address.take(key).or(of_service)
    }

    /// Takes what only the service calls so.
    pub(super) fn of_service(&mut self, key: &str) -> Option<String> {
        self.of_service.remove(key)
    }

    pub(super) fn home(&self) -> Option<PathBuf> {
        self.surroundings.home()
    }

    pub(super) fn surroundings(&self) -> &Surroundings {
        &self.surroundings
    }
}

/// The settings of the service of this name, in the first file that has it.
fn service(name: &str, surroundings: &Surroundings) -> Result<BTreeMap<String, String>, String> {
    let own = surroundings.path("PGSERVICEFILE");
    let own = own.or_else(|| surroundings.home().map(|home| home.join(".pg_service.conf")));
    let systems: Vec<PathBuf> = match surroundings.path("PGSYSCONFDIR") {
        Some(directory) => vec![directory],
        None => SYSTEM.iter().map(PathBuf::from).collect(),
    };
    let files: Vec<PathBuf> =
        own.into_iter().chain(systems.iter().map(|system| system.join("pg_service.conf"))).collect();
    for file in &files {
        let Ok(text) = std::fs::read_to_string(file) else { continue };
        if let Some(settings) = service_in(&text, name, file)? {
            return Ok(settings);
        }
    }
    let files: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
    Err(format!("there is no service of the name that the option service has in {}", files.join(", ")))
}

/// The settings of a service in the text of a file.
fn service_in(text: &str, name: &str, file: &Path) -> Result<Option<BTreeMap<String, String>>, String> {
    let (mut found, mut is_inside) = (None::<BTreeMap<_, _>>, false);
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(section) = line.strip_prefix('[') {
            if found.is_some() {
                break;
            }
            is_inside = section.strip_suffix(']') == Some(name);
            if is_inside {
                found = Some(BTreeMap::new());
            }
            continue;
        }
        let Some(settings) = found.as_mut().filter(|_| is_inside) else { continue };
        let at = format!("{}, line {}", file.display(), number + 1);
        let Some((key, value)) = line.split_once('=') else {
            return Err(format!("{at}: what a service has are lines of the form setting=value"));
        };
        let (key, value) = (key.trim(), value.trim());
        if !KNOWN.contains(&key) {
            return Err(format!(
                "{at}: this store does not know the setting {:?}: leave it out; known are: {}",
                printable(key),
                KNOWN.join(", ")
            ));
        }
        settings.entry(key.to_owned()).or_insert_with(|| value.to_owned());
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_a_section_of_a_file() {
        let file = Path::new("/x/pg_service.conf");
        let of = |text: &str| service_in(text, "mine", file);
        assert_eq!(of("").unwrap(), None);
        assert_eq!(of("[other]\nhost=h").unwrap(), None);
        assert_eq!(of("[mine]").unwrap(), Some(BTreeMap::new()));
        let settings =
            of("[a]\nx\n[mine]\n host = h \n#port=1\nhost=later\n[b]\ncolour=red").unwrap().unwrap();
        assert_eq!(settings, BTreeMap::from([("host".to_owned(), "h".to_owned())]));
        for (text, reason) in [
            ("[mine]\nhost", "/x/pg_service.conf, line 2: what a service has are lines"),
            ("[mine]\n\ncolour=red", "line 3: this store does not know the setting \"colour\""),
        ] {
            let refused = of(text).unwrap_err();
            assert!(refused.contains(reason), "{refused}");
        }
    }
}
