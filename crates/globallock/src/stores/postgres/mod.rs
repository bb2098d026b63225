//! The store in PostgreSQL.

#![allow(dead_code, reason = "the store that uses the connection comes next")]

mod config;
mod connection;
mod failure;
mod login;
mod passfile;
mod pool;
mod server;
mod service;
mod tls;

use std::sync::Arc;

use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::stores::address::Address;

pub(crate) struct Postgres;

impl Postgres {
    pub(crate) fn open(address: Address) -> Result<Arc<dyn Backend>> {
        let config = config::Config::new(address)?;
        Err(Error::failed_precondition(config.shown, "the store in PostgreSQL is not complete yet"))
    }
}
