//! The settings that stores with servers have in common: the timeout, who logs in, and TLS.

use std::time::Duration;

use super::Address;
#[cfg(any(feature = "etcd", feature = "zookeeper"))]
use super::password::Password;
use crate::error::Result;
use crate::stores::transport::tls::Options;

/// The files of an address with TLS, in PEM.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct TlsFiles {
    /// The authorities that the server's certificate may be signed by; `None` stands for the system's own.
    pub(crate) ca: Option<Vec<u8>>,
    /// The client's certificate and its key.
    pub(crate) client: Option<(Vec<u8>, Vec<u8>)>,
}

impl Address {
    /// Takes the option `timeout`: how long one request may take.
    ///
    /// # Errors
    /// [`Error::InvalidAddress`](crate::Error::InvalidAddress) if it is no duration, or zero.
    pub(crate) fn take_timeout(&mut self) -> Result<Duration> {
        let timeout = self.take_duration("timeout")?.unwrap_or(Duration::from_secs(2));
        if timeout.is_zero() {
            return Err(self.wrong("the option timeout must not be zero"));
        }
        Ok(timeout)
    }

    /// Takes user and password, where each needs the other.
    ///
    /// # Errors
    /// [`Error::InvalidAddress`](crate::Error::InvalidAddress) if only one of them is there, or a password
    /// twice.
    #[cfg(any(feature = "etcd", feature = "zookeeper"))]
    pub(crate) fn take_login(&mut self) -> Result<Option<(String, Password)>> {
        match (self.user.clone(), self.take_password("")?) {
            (Some(user), Some(password)) => Ok(Some((user, password))),
            (None, None) => Ok(None),
            _ => {
                Err(self
                    .wrong(format!("user and password go together: {}://user:password@host", self.scheme)))
            }
        }
    }

    /// Refuses an address in which the path is repeated after each host, since a host after the first would
    /// be part of the path. `form` is one that is right.
    ///
    /// # Errors
    /// [`Error::InvalidAddress`](crate::Error::InvalidAddress).
    #[cfg(any(feature = "postgres", feature = "redis", feature = "zookeeper"))]
    pub(crate) fn has_its_path_once(&self, form: &str) -> Result<()> {
        if self.path.contains(',') {
            let reason = format!(
                "there is a comma after its path: write the path once, after the last host, as {form}"
            );
            return Err(self.wrong(reason));
        }
        Ok(())
    }

    /// Takes the options for TLS, which have these names, and reads the files that they name.
    ///
    /// # Errors
    /// [`Error::InvalidAddress`](crate::Error::InvalidAddress) if a file cannot be read or is none of the
    /// kind, and if only one of certificate and key is there.
    pub(crate) fn take_tls(&mut self, options: &Options) -> Result<TlsFiles> {
        let ca = self.take_pem(options.ca, "BEGIN CERTIFICATE")?;
        let cert = self.take_pem(options.cert, "BEGIN CERTIFICATE")?;
        let key = self.take_pem(options.key, "PRIVATE KEY")?;
        let client = match (cert, key) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (None, None) => None,
            _ => {
                let reason = format!("the options {} and {} go together", options.cert, options.key);
                return Err(self.wrong(reason));
            }
        };
        Ok(TlsFiles { ca, client })
    }

    /// Takes an option that names a PEM file with `content`, such as `BEGIN CERTIFICATE`, and reads it.
    fn take_pem(&mut self, option: &str, content: &str) -> Result<Option<Vec<u8>>> {
        let Some(path) = self.take(option) else {
            return Ok(None);
        };
        self.read_pem(option, &path, content).map(Some)
    }

    /// Reads the PEM file with `content` that an option has named.
    ///
    /// # Errors
    /// [`Error::InvalidAddress`](crate::Error::InvalidAddress) if it cannot be read, or has none.
    pub(crate) fn read_pem(&self, option: &str, path: &str, content: &str) -> Result<Vec<u8>> {
        let unreadable = |error| self.wrong(format!("the option {option}: cannot read {path:?}: {error}"));
        let text = std::fs::read(path).map_err(unreadable)?;
        if !text.windows(content.len()).any(|part| part == content.as_bytes()) {
            let reason =
                format!("the option {option}: there is no {content:?} in {path:?}: name a PEM file with one");
            return Err(self.wrong(reason));
        }
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stores::transport::tls::OPTIONS;

    const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----";
    const KEY: &str = "-----BEGIN PRIVATE KEY-----";

    fn address(text: &str) -> Address {
        Address::parse(text).unwrap()
    }

    /// What an address has with these options, each of which names a file with this content.
    fn tls_of(options: &[(&str, &str)]) -> Result<TlsFiles> {
        let directory = tempfile::tempdir().unwrap();
        let mut query = Vec::new();
        for (option, content) in options {
            let path = directory.path().join(option);
            std::fs::write(&path, content).unwrap();
            query.push(format!("{option}={}", path.display()));
        }
        let mut address = address(&format!("store://host?{}", query.join("&")));
        let files = address.take_tls(&OPTIONS);
        address.finish(&[]).unwrap();
        files
    }

    #[test]
    fn a_certificate_and_its_key_go_together() {
        let (ca, cert, key) = (("ca", CERTIFICATE), ("cert", CERTIFICATE), ("key", KEY));
        let [certificate, private] = [CERTIFICATE, KEY].map(|text| text.as_bytes().to_vec());
        let client = Some((certificate.clone(), private));
        for (options, expected) in [
            (&[][..], TlsFiles::default()),
            (&[ca], TlsFiles { ca: Some(certificate.clone()), client: None }),
            (&[cert, key], TlsFiles { ca: None, client: client.clone() }),
            (&[ca, cert, key], TlsFiles { ca: Some(certificate.clone()), client: client.clone() }),
        ] {
            assert_eq!(tls_of(options).unwrap(), expected);
        }
        for options in [&[cert][..], &[key], &[ca, cert], &[ca, key]] {
            let refused = tls_of(options).unwrap_err().to_string();
            assert!(refused.contains("cert and key go together"), "{refused}");
        }
    }

    #[test]
    fn a_file_that_is_none_of_the_kind_is_refused_with_its_option() {
        for (option, content) in [("ca", CERTIFICATE), ("cert", CERTIFICATE), ("key", "PRIVATE KEY")] {
            let refused = tls_of(&[(option, "nothing of the kind")]).unwrap_err().to_string();
            let lacks = format!("the option {option}: there is no {:?} in", content.trim_matches('-'));
            assert!(refused.contains(&lacks), "{refused}");
            let refused = address(&format!("store://h?{option}=/nowhere.pem"))
                .take_tls(&OPTIONS)
                .unwrap_err()
                .to_string();
            assert!(
                refused.contains(&format!("the option {option}: cannot read \"/nowhere.pem\"")),
                "{refused}"
            );
        }
    }

    #[cfg(any(feature = "etcd", feature = "zookeeper"))]
    #[tokio::test]
    async fn user_and_password_go_together() {
        let login = |text: &str| address(text).take_login();
        let (user, password) = login("store://u:p@h").unwrap().unwrap();
        assert_eq!(
            (user.as_str(), password.read(Duration::from_secs(9)).await.unwrap().as_str()),
            ("u", "p")
        );
        assert!(login("store://u@h?password_file=/x").unwrap().is_some());
        assert!(login("store://h").unwrap().is_none());
        for text in ["store://u@h", "store://:p@h", "store://h?password_file=/x"] {
            let Err(refused) = login(text) else { panic!("{text}") };
            assert!(refused.to_string().contains("store://user:password@host"), "{refused}");
        }
    }

    #[test]
    fn a_request_takes_some_time() {
        let timeout = |text: &str| address(text).take_timeout();
        assert_eq!(timeout("store://h").unwrap(), Duration::from_secs(2));
        assert_eq!(timeout("store://h?timeout=250ms").unwrap(), Duration::from_millis(250));
        for text in ["store://h?timeout=0s", "store://h?timeout=soon"] {
            assert!(timeout(text).unwrap_err().to_string().contains("timeout"), "{text}");
        }
    }
}
