//! `globallock top`, on terminals.

mod given_back;
mod refused;
mod seen;
mod window;
