//! The store in Redis, behind TLS, whose certificate may have expired.

use std::io::{Error, Result};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use globallock::LockManager;
use tempfile::TempDir;
use tokio::time::sleep;

use super::redis::{hostile, left, read_message};
use super::{Draw, Outcome, OwnFault, ReadMessage, Role, StoreKind, TestStore, Trait};
use crate::proxy::Proxy;
use crate::server::certificates::{Certificates, ServerFiles};
use crate::server::redis::Redis;
use crate::server::{Cluster, free_port};
use crate::store_under_test::StoreUnderTest;

const EXPIRED_CERTIFICATE: OwnFault = OwnFault { takes: 8, ..OwnFault::new("expired_certificate") };

pub(super) const KINDS: &[StoreKind] = &[StoreKind {
    name: "redis-tls",
    roles: &[Role::Faults],
    servers: 1,
    starts_in: 1,
    install: super::nothing,
    traits: &[Trait::BetweenProcesses],
    start: || Ok(Box::new(Encrypted::start()?)),
    own_faults: &[EXPIRED_CERTIFICATE, EXPIRED_CERTIFICATE],
    hostile,
}];

/// A server with a port for owners, with TLS, and a plain one for tools.
#[derive(Debug)]
struct Encrypted {
    server: Redis,
    port: u16,
    certificates: Certificates,
    directory: TempDir,
}

#[async_trait]
impl TestStore for Encrypted {
    fn url(&self) -> String {
        self.server.url()
    }

    fn url_by(&self, hosts: &[String]) -> String {
        format!("rediss://{}?ca={}", hosts.join(","), self.certificates.ca.display())
    }

    /// Presents a certificate that is good for this address too.
    fn be_reached_at(&mut self, address: IpAddr) -> Result<()> {
        self.certificates = Certificates::write_for(self.directory.path(), &[address])?;
        self.present(&self.valid())
    }

    fn cluster(&mut self) -> Option<&mut dyn Cluster> {
        Some(&mut self.server)
    }

    fn ports(&self) -> Vec<u16> {
        vec![self.port]
    }

    fn under_test(&self, kind: &str, child: Option<PathBuf>) -> Vec<StoreUnderTest> {
        vec![StoreUnderTest::at(kind, &self.own_url(), child)]
    }

    fn left(&self, name: &str) -> Vec<String> {
        left(self.server.port(), name)
    }

    fn forgets_when_killed(&self) -> bool {
        true
    }

    /// Presents an expired certificate to all who connect for a while, and cuts all connections.
    async fn break_by(&mut self, _fault: &OwnFault, draw: Draw, proxies: &[Proxy]) -> Result<Outcome> {
        self.present(&self.certificates.expired)?;
        let answered = || proxies.iter().map(Proxy::answered).sum::<u64>();
        let before = answered();
        proxies.iter().for_each(Proxy::cut);
        let until = Instant::now() + draw.lease.mul_f64(0.4 + 0.8 * draw.length);
        let refused = match LockManager::connect(&self.own_url()).await {
            Ok(_) => "nothing".to_owned(),
            Err(error) => error.to_string(),
        };
        sleep(until.saturating_duration_since(Instant::now())).await;
        let opened = answered();
        self.present(&self.valid())?;
        // Those who connect from now on are let in.
        let until = Instant::now() + draw.lease;
        while answered() == opened && Instant::now() < until {
            sleep(Duration::from_millis(5)).await;
        }
        let (met, later) = (opened - before, answered() - opened);
        let proof = format!(
            "a handshake was refused: {refused}; {met} connections of owners met it, {later} came later"
        );
        Ok(Outcome::of(refused.contains("expired") && met > 0, proof))
    }

    fn read_message(&self) -> Option<ReadMessage> {
        Some(read_message)
    }
}

impl Encrypted {
    fn start() -> Result<Self> {
        let directory = TempDir::new()?;
        let certificates = Certificates::write(directory.path())?;
        let port = free_port();
        let [ca, server, key] = [&certificates.ca, &certificates.server, &certificates.server_key]
            .map(|file| file.display().to_string());
        let server = Redis::start_with(&[
            "--tls-port",
            &port.to_string(),
            "--tls-auth-clients",
            "no",
            "--tls-ca-cert-file",
            &ca,
            "--tls-cert-file",
            &server,
            "--tls-key-file",
            &key,
        ])?;
        Ok(Encrypted { server, port, certificates, directory })
    }

    /// The address by the port with TLS.
    fn own_url(&self) -> String {
        self.url_by(&[format!("127.0.0.1:{}", self.port)])
    }

    fn valid(&self) -> ServerFiles {
        let Certificates { server, server_key, .. } = &self.certificates;
        ServerFiles { certificate: server.clone(), key: server_key.clone() }
    }

    /// Presents a certificate to those who connect from now on.
    fn present(&self, files: &ServerFiles) -> Result<()> {
        let [certificate, key] = [&files.certificate, &files.key].map(|file| file.display().to_string());
        let set = self.server.cli(&["CONFIG", "SET", "tls-cert-file", &certificate, "tls-key-file", &key]);
        if set == "OK" { Ok(()) } else { Err(Error::other(set)) }
    }
}
